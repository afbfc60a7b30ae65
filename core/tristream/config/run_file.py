"""The run file: everything a run is, as frozen pydantic models."""

from pydantic import Field, field_validator, model_validator

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
from tristream.config.sources import SourceSection
from tristream.config.store import FilesStoreSection, StoreSection
from tristream.config.verification import VerificationSection


class RunFile(Section):
    """Everything a run is."""

    run: RunSection
    model: ModelSection
    sources: tuple[SourceSection, ...] = Field(min_length=1)
    rollout: RolloutSection = RolloutSection()
    verification: VerificationSection = VerificationSection()
    assembly: AssemblySection = AssemblySection()
    learner: LearnerSection = LearnerSection()
    evaluation: EvaluationSection = EvaluationSection()
    bus: BusSection = BusSection()
    store: StoreSection = FilesStoreSection()
    monitoring: MonitoringSection = MonitoringSection()
    metrics: MetricsSection = MetricsSection()

    @field_validator("sources")
    @classmethod
    def _names_are_unique(cls, sources: tuple[SourceSection, ...]) -> tuple[SourceSection, ...]:
        names = [source.name for source in sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"source names repeat: {', '.join(repeated)}")
        return sources

    @model_validator(mode="after")
    def _warmup_fits(self) -> "RunFile":
        if self.learner.warmup_steps >= self.run.steps and self.learner.warmup_steps > 0:
            raise ValueError("learner.warmup_steps must be smaller than run.steps")
        return self
