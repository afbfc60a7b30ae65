"""``[model]``: which model is trained."""

from pathlib import Path
from typing import Literal

from tristream.config.base import Section


class ModelSection(Section):
    """Which model is trained."""

    path: Path
    """Folder of a Hugging Face checkpoint with tokenizer and processor files."""
    freeze: tuple[str, ...] = ()
    """Name prefixes of parameters that stay as they are, such as ``model.visual.``; each must match."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of weights and activations, in the producer and in the learner."""
