"""A learner of one rank on scratch batches, and what it says."""

import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scratch_batches import GROUPS_PER_STEP
from tristream.config.parts import LearnerSettings
from tristream.config.run_file import RunFile
from tristream.learner.main import run_rank
from tristream.learner.training.distributed import start_process_group
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartStatus, PolicyVersion, StepReport
from tristream.wire.topics import PARTS, POLICY, STEPS


def settings_for(
    model: Path,
    output: Path,
    address: str,
    *,
    steps: int = 4,
    seed: int = 1,
    warmup_steps: int = 1,
    zero_stage: int = 0,
    top_p: float = 1.0,
    algorithm: Mapping[str, Any] = MappingProxyType({}),
) -> LearnerSettings:
    """A learner that makes a checkpoint every second step."""
    run_file = RunFile.model_validate(
        {
            "run": {"id": "test", "steps": steps, "output": output, "seed": seed},
            "model": {"path": model, "freeze": ["model.visual."]},
            "sources": [{"name": "shapes", "train": "train.parquet"}],
            "assembly": {"address": address},
            "learner": {
                "learning_rate": 1e-3,
                "checkpoint_every": 2,
                "keep_checkpoints": 2,
                "warmup_steps": warmup_steps,
                "zero_stage": zero_stage,
                "algorithm": algorithm,
            },
            "evaluation": {"every": 2},
            "rollout": {"max_staleness": 0, "groups_per_step": GROUPS_PER_STEP, "top_p": top_p},
        }
    )
    return LearnerSettings.of(run_file)


def make_reporter(settings: LearnerSettings) -> PartReporter:
    return PartReporter(settings.run.folder, settings.run.id, Part.LEARNER, beat_seconds=0.1)


def run_learner(settings: LearnerSettings, bus: MemoryBus, stop: threading.Event | None = None) -> None:
    rank, world_size = start_process_group()
    stop = threading.Event() if stop is None else stop
    part = bus.as_part("learner")
    run_rank(settings, lambda _say: part, make_reporter(settings), rank=rank, world_size=world_size, stop=stop)


def versions_on(bus: MemoryBus) -> list[PolicyVersion]:
    return [record.event for record in bus.reader([POLICY]).read_to_end()]


def statuses_on(bus: MemoryBus) -> list[PartStatus]:
    return [record.event for record in bus.reader([PARTS]).read_to_end()]


def reports_on(bus: MemoryBus) -> list[StepReport]:
    return [record.event for record in bus.reader([STEPS]).read_to_end()]
