"""The commands of the parts: what each is called, what it imports and what it is given."""

from collections.abc import Mapping
from dataclasses import dataclass

from tristream.config.parts import (
    AssemblerSettings,
    DispatcherSettings,
    LearnerSettings,
    MonitorSettings,
    PartSettings,
    ProducerSettings,
    VerifierSettings,
)
from tristream.wire.events import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCommand:
    """How one part is started; its extra of the package ``tristream`` and its image are called after the part."""

    name: str
    """The command: ``tristream NAME --run RUN_FILE``."""
    module: str
    """Its ``main`` takes the settings; imported only when the part is started."""
    settings: type[PartSettings]
    """Its sections of the run file."""
    summary: str
    """What it does, for ``--help``."""


PART_COMMANDS: Mapping[Part, PartCommand] = {
    Part.DISPATCHER: PartCommand(
        name="dispatch",
        module="tristream.dispatcher.main",
        settings=DispatcherSettings,
        summary="Mix the sources, pin the reward terms, admit prompts by staleness.",
    ),
    Part.PRODUCER: PartCommand(
        name="produce",
        module="tristream.producer.main",
        settings=ProducerSettings,
        summary="Answer prompts with rollouts of the newest policy.",
    ),
    Part.VERIFIER: PartCommand(
        name="verify",
        module="tristream.verifiers.main",
        settings=VerifierSettings,
        summary="Score rollouts in child processes that can be killed.",
    ),
    Part.ASSEMBLER: PartCommand(
        name="assemble",
        module="tristream.assembler.main",
        settings=AssemblerSettings,
        summary="Join rollouts and rewards into groups and serve batches over gRPC.",
    ),
    Part.LEARNER: PartCommand(
        name="learn",
        module="tristream.learner.main",
        settings=LearnerSettings,
        summary="Train: take batches, make steps, publish weights and checkpoints.",
    ),
    Part.MONITOR: PartCommand(
        name="monitor",
        module="tristream.monitoring.main",
        settings=MonitorSettings,
        summary="Write all events to ClickHouse and serve the live page.",
    ),
}
