"""What each part is given: its own sections of the run file and no others."""

from typing import Self

from tristream.config.assembly import AssemblySection
from tristream.config.base import Section
from tristream.config.bus import BusSection
from tristream.config.evaluation import EvaluationSection
from tristream.config.learner import LearnerSection
from tristream.config.metrics import MetricsSection
from tristream.config.model import ModelSection
from tristream.config.monitoring import MonitoringSection
from tristream.config.rollout import RolloutSection
from tristream.config.run import RunSection
from tristream.config.run_file import RunFile
from tristream.config.sources import SourceSection
from tristream.config.store import StoreSection
from tristream.config.verification import VerificationSection


class PartSettings(Section):
    """Sections of a run file."""

    run: RunSection
    bus: BusSection
    metrics: MetricsSection = MetricsSection()

    @classmethod
    def of(cls, run_file: RunFile) -> Self:
        """The sections of this part."""
        return cls(**{name: getattr(run_file, name) for name in cls.model_fields})


class DispatcherSettings(PartSettings):
    """What the dispatcher is given; of the verification it pins the versions of the plug-ins."""

    sources: tuple[SourceSection, ...]
    rollout: RolloutSection
    verification: VerificationSection
    evaluation: EvaluationSection
    store: StoreSection


class ProducerSettings(PartSettings):
    """What a producer is given; of the sources it reads how their rollouts go on."""

    model: ModelSection
    sources: tuple[SourceSection, ...]
    rollout: RolloutSection
    store: StoreSection


class VerifierSettings(PartSettings):
    """What a verifier worker is given; of the model it reads how images are resized."""

    model: ModelSection
    verification: VerificationSection
    store: StoreSection


class AssemblerSettings(PartSettings):
    """What the assembler is given."""

    rollout: RolloutSection
    assembly: AssemblySection


class LearnerSettings(PartSettings):
    """What the learner is given; by rollout and evaluation it knows which weights are still needed."""

    model: ModelSection
    rollout: RolloutSection
    evaluation: EvaluationSection
    assembly: AssemblySection
    learner: LearnerSection
    store: StoreSection


class MonitorSettings(PartSettings):
    """What the monitor is given; model, sources and rollout are shown to people."""

    model: ModelSection
    sources: tuple[SourceSection, ...]
    rollout: RolloutSection
    monitoring: MonitoringSection
    store: StoreSection
