"""Which engine generates: one folder an engine, chosen by ``rollout.engine.type``, imported only where it is."""

import sys
from importlib.util import find_spec

from tristream.config.engines import EngineSection, OpenaiEngineSection, VllmEngineSection
from tristream.config.model import ModelSection
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Engine
from tristream.runtime.errors import UserError


def make_engine(section: EngineSection, model: ModelSection, encoder: PromptEncoder) -> Engine:
    """The engine of a run file, its model loaded.

    Raises:
        UserError: the model cannot be loaded, or the engine does not support it, or is not installed.
    """
    if isinstance(section, VllmEngineSection):
        return _make_vllm_engine(section, model, encoder)
    if isinstance(section, OpenaiEngineSection):
        from tristream.producer.engines.openai.engine import make_openai_engine

        return make_openai_engine(section, model, encoder)
    from tristream.producer.engines.transformers.engine import make_transformers_engine

    return make_transformers_engine(section, model, encoder)


def _make_vllm_engine(section: VllmEngineSection, model: ModelSection, encoder: PromptEncoder) -> Engine:
    if find_spec("vllm") is None:
        raise UserError(
            f"vLLM is not installed for {sys.executable}",
            where="[rollout.engine] type",
            remedy="make vllm-env, and give its python in rollout.engine.python",
        )
    from tristream.producer.engines.vllm.arguments import set_environment

    set_environment()  # which vLLM reads when it is imported
    from tristream.producer.engines.vllm.engine import make_vllm_engine

    return make_vllm_engine(section, model, encoder)
