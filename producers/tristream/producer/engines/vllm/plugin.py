"""What every process of vLLM is told at its start, by an entry point: to take images as the learner takes them.

The learner reads images with the processor's PIL backend, which needs no torchvision and whose pixels differ a little
from torchvision's. Where there is no torchvision, such as on CPUs, a processor of images and videos is loaded without
its part for videos, which are not trained on, and modules that only name torchvision are imported all the same.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NAMES_TORCHVISION = "transformers.models.qwen2_vl.image_processing_qwen2_vl"
"""vLLM's models of the Qwen-VL families take a function without torchvision from it."""


def take_images_like_the_learner() -> None:
    """Make transformers' processors, as vLLM loads them, take the PIL backend, and vLLM keep what it may read anew."""
    _keep_images_of_cached_prompts()
    auto = importlib.import_module("transformers.models.auto.image_processing_auto").AutoImageProcessor
    load = auto.from_pretrained

    def load_with_pil(*args: object, **kwargs: object) -> object:
        return load(*args, **{"backend": "pil"} | kwargs)

    auto.from_pretrained = load_with_pil
    if find_spec("torchvision") is None:
        videos: Any = importlib.import_module("transformers.models.auto.video_processing_auto")
        videos.AutoVideoProcessor = _no_video_processor()
        with _empty_modules("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
            importlib.import_module(NAMES_TORCHVISION)


def _keep_images_of_cached_prompts() -> None:
    """Send images to vLLM's workers even if the prefix cache has them.

    vLLM leaves them out then, and has nothing to read when new weights empty the cache under a request in work: the
    engine ends with an AssertionError.
    """

    def keep(features: object, *_args: object, **_kwargs: object) -> object:
        return features

    scheduling: Any = importlib.import_module("vllm.v1.core.sched.output")
    scheduling.strip_covered_mm_data = keep


@contextmanager
def _empty_modules(*names: str) -> Iterator[None]:
    """Modules of which any name may be imported, in order from the outermost one."""
    for name in names:
        module: Any = ModuleType(name)
        module.__path__ = []
        module.__getattr__ = ModuleType
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def _no_video_processor() -> type:
    from transformers.processing_utils import VideosKwargs
    from transformers.utils import PushToHubMixin

    base: Any = importlib.import_module("transformers.processing_utils").transformers_module.BaseVideoProcessor

    class Present(type(base)):  # type: ignore[misc]
        """The base stands for a class that is missing, whose attributes are refused."""

        __getattribute__ = type.__getattribute__

    class NoVideoProcessor(base, PushToHubMixin, metaclass=Present):  # type: ignore[misc]
        """Stands where a processor wants one for videos."""

        model_input_names = ()
        valid_kwargs = VideosKwargs

        def __init__(self) -> None:
            pass

        @classmethod
        def from_pretrained(cls, *_args: object, **_kwargs: object) -> "NoVideoProcessor":
            """One for any model."""
            return cls()

        def to_dict(self) -> dict[str, object]:
            """Its settings."""
            return {}

    return NoVideoProcessor
