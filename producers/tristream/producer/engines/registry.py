"""Which engine generates: one module an engine, chosen by ``rollout.engine.type``."""

from collections.abc import Callable, Mapping

from tristream.config.engines import EngineSection
from tristream.config.model import ModelSection
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Engine


def make_engine(section: EngineSection, model: ModelSection, encoder: PromptEncoder) -> Engine:
    """The engine of a run file, its model loaded.

    Raises:
        UserError: the model cannot be loaded, or the engine does not support it.
    """
    return ENGINES[section.type](section, model, encoder)


def _make_transformers_engine(section: EngineSection, model: ModelSection, encoder: PromptEncoder) -> Engine:
    # An engine's libraries are imported only where it is chosen.
    from tristream.producer.engines.transformers import make_transformers_engine

    return make_transformers_engine(section, model, encoder)


ENGINES: Mapping[str, Callable[[EngineSection, ModelSection, PromptEncoder], Engine]] = {
    "transformers": _make_transformers_engine
}
"""Makers by type."""
