"""The run file: everything a run is, as frozen pydantic models read from TOML.

Precedence, weakest first: defaults, the file, environment variables
(``TRISTREAM__LEARNER__LEARNING_RATE=1e-4``), ``--set learner.learning_rate=1e-4``. Unknown keys
are refused. Relative paths are relative to the file. A resolved run is JSON and loads alike.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tristream.runtime.errors import UserError

ENVIRONMENT_PREFIX = "TRISTREAM__"


class Section(BaseModel):
    """A section of the run file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RunSection(Section):
    """What the run is called, how long it is, and where its results go."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of the run: part of the topic names and of the output folder."""
    seed: int = 1
    """Seed of the mix, the order of the samples, the sampling and the learner."""
    steps: int = Field(ge=1)
    """Optimizer steps of the whole run."""
    output: Path = Path("runs")
    """Folder of the run folders; the run writes to ``output/id``."""

    @property
    def folder(self) -> Path:
        """Folder of this run's results."""
        return self.output / self.id


class ModelSection(Section):
    """Which model is trained."""

    path: Path
    """Folder of a Hugging Face checkpoint with tokenizer and processor files."""
    freeze: tuple[str, ...] = ()
    """Name prefixes of parameters that stay as they are, such as ``model.visual.``; each must match."""


class SourceSection(Section):
    """One data source: V-Triune rows in Parquet."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the source, the key of all its metrics."""
    train: Path
    """Parquet file of training rows."""
    eval: Path | None = None
    """Parquet file of held-out rows."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the prompts, relative to the other sources."""
    metric: str = "accuracy"
    """Reward component or metric that evaluation reports."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Verifier parameters laid over those of each row, in training."""
    eval_params: dict[str, Any] = Field(default_factory=dict)
    """Verifier parameters laid over those of each row, in evaluation."""


class RolloutSection(Section):
    """How prompts are dispatched and answered."""

    groups_per_step: int = Field(default=16, ge=1)
    """Prompt groups in one training batch (B)."""
    group_size: int = Field(default=8, ge=2)
    """Rollouts of one prompt (G)."""
    max_staleness: int = Field(default=1, ge=0)
    """Largest age of a rollout in policy versions (eta); 0 is on-policy."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of training rollouts."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass kept; below 1 the log-probabilities are biased."""
    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of a completion."""
    engine: Literal["transformers"] = "transformers"
    """What generates."""
    max_batch_size: int = Field(default=128, ge=1)
    """Most rollouts generated at once."""
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of the engine."""
    inline_image_bytes: int = Field(default=65536, ge=0)
    """Larger images travel by reference through the store."""


class VerificationSection(Section):
    """How rollouts are scored."""

    verifiers: tuple[str, ...] = ()
    """Verifiers of the worker; empty means all that exist."""
    num_processes: int = Field(default=1, ge=1)
    """Child processes that score."""
    deadline_seconds: float = Field(default=10.0, gt=0)
    """A child that needs longer for one rollout is killed, and the reward is TIMEOUT."""
    batch_size: int = Field(default=64, ge=1)
    """Most rollouts taken from the log at once."""


class AssemblySection(Section):
    """How scored groups become batches."""

    drop_zero_variance: bool = True
    """Drop groups whose rewards are all equal; others are dispatched in their place."""
    join_timeout_seconds: float = Field(default=300.0, gt=0)
    """A group still incomplete after this time is dropped as ``incomplete``."""
    micro_batch_tokens: int = Field(default=16384, ge=1)
    """Most tokens, prompts included, of one micro-batch."""
    address: str = "127.0.0.1:50051"
    """Address that the assembler serves on and the learner asks."""


class LearnerSection(Section):
    """How the policy is updated."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of AdamW."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up; constant afterwards."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """Lower clip range of the ratio."""
    clip_high: float = Field(default=0.28, gt=0)
    """Upper clip range of the ratio."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm is clipped to this."""
    zero_stage: int = Field(default=0, ge=0, le=3)
    """ZeRO stage of DeepSpeed."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the weights and activations."""
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of one rank."""
    logprob_chunk_tokens: int = Field(default=1024, ge=1)
    """Completion tokens whose logits are in memory at once."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""


class EvaluationSection(Section):
    """When the held-out rows are answered greedily."""

    every: int = Field(default=20, ge=1)
    """Steps between evaluations; the first and the last policy are always evaluated."""
    max_tokens: int | None = None
    """Most tokens of an answer; None means as in training."""


class BusSection(Section):
    """Where the events go."""

    bootstrap_servers: str = ""
    """Kafka brokers; empty means a broker started for this run (``tristream up``)."""
    durable: bool = True
    """Whether the brokers keep their log over a restart; if not, the offsets in a checkpoint are not used."""
    prefix: str = "tristream"
    """First part of the topic names."""
    num_partitions: int = Field(default=4, ge=1)
    """Partitions of each topic."""
    replication_factor: int = Field(default=1, ge=1)
    """Replicas of each partition."""
    session_timeout_seconds: float = Field(default=6.0, gt=0)
    """A silent consumer is replaced after this time."""
    fetch_wait_seconds: float = Field(default=0.1, gt=0)
    """Longest time a broker holds an empty fetch; a broker that does not wake a waiting fetch adds it to each hop."""
    connect_timeout_seconds: float = Field(default=30.0, gt=0)
    """How long a broker may take to answer at start."""
    max_in_flight_bytes: int = Field(default=64 * 2**20, ge=2**20)
    """Published bytes not yet acknowledged; publishing waits beyond this."""


class StoreSection(Section):
    """Where weights and large images go."""

    uri: str = ""
    """An fsspec address such as ``s3://bucket/run``; empty means ``output/id/store``."""


class MonitoringSection(Section):
    """Where metrics go and where people look."""

    clickhouse_url: str = ""
    """ClickHouse server (``http://user:password@host:8123/database``); empty means embedded."""
    flush_seconds: float = Field(default=1.0, gt=0)
    """Longest time an event waits before it is written."""
    http_host: str = "127.0.0.1"
    """Address of the live page."""
    http_port: int = Field(default=0, ge=0, le=65535)
    """Port of the live page; 0 means a free one."""


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
    store: StoreSection = StoreSection()
    monitoring: MonitoringSection = MonitoringSection()

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

    @property
    def store_uri(self) -> str:
        """Address of the store, absolute."""
        return self.store.uri or str((self.run.folder / "store").absolute())

    @property
    def status_folder(self) -> Path:
        """Folder where each part keeps its status file."""
        return self.run.folder / "status"


def load_run_file(
    path: Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> RunFile:
    """Read, overlay and check a run file.

    Args:
        path: a TOML file, or the JSON of a resolved run.
        overrides: ``key.path=value`` strings; values are TOML, bare words are strings.
        environment: variables to overlay; ``os.environ`` by default.

    Raises:
        UserError: the file is missing or malformed, a key is unknown or a value has a wrong type.
    """
    tree = _read_tree(path)
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            _assign(tree, keys, value, where=f"environment variable {name}")
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise UserError(f"'{override}' has no '='", where="--set", remedy="write key=value, such as run.steps=20")
        _assign(tree, name.strip().split("."), value.strip(), where=f"--set {name}")
    return _validate(tree, path)


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(
            "no such file", where=str(path), remedy="give the path of a run file, such as examples/digits/run.toml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), remedy="give a readable text file") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"not valid: {error}", where=str(path), remedy="correct the syntax") from None
    if not isinstance(tree, dict):
        raise UserError("not a table", where=str(path), remedy="start from examples/digits/run.toml")
    return tree


def _assign(tree: dict[str, Any], keys: Sequence[str], text: str, *, where: str) -> None:
    """Set one value; an integer key indexes a list, such as ``sources.0.weight``."""
    node: Any = tree
    for key in keys[:-1]:
        node = node[_index(node, key, where)] if isinstance(node, list) else node.setdefault(key, {})
        if not isinstance(node, dict | list):
            raise UserError(f"'{key}' is a value, not a section", where=where, remedy="check the key")
    last: Any = _index(node, keys[-1], where) if isinstance(node, list) else keys[-1]
    node[last] = _parse_value(text)


def _index(values: list[Any], key: str, where: str) -> int:
    if key.isdigit() and int(key) < len(values):
        return int(key)
    raise UserError(
        f"'{key}' is not an index below {len(values)}", where=where, remedy="use a number, such as sources.0"
    )


def _parse_value(text: str) -> Any:  # noqa: ANN401 - a TOML value can be anything
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _validate(tree: dict[str, Any], path: Path) -> RunFile:
    try:
        run_file = RunFile.model_validate(tree)
    except ValidationError as error:
        # A misspelt key also makes the right one missing: the misspelt one says more.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            _explain(first["type"], first["msg"], key), where=f"{path} [{key}]", remedy=_remedy(first["type"])
        ) from None
    return _with_absolute_paths(run_file, path.parent.absolute())


def _explain(kind: str, message: str, key: str) -> str:
    if kind == "extra_forbidden":
        return f"unknown key '{key.rpartition('.')[2]}'"
    if kind == "missing":
        return f"key '{key.rpartition('.')[2]}' is missing"
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _remedy(kind: str) -> str:
    if kind == "extra_forbidden":
        return "remove it, or see `tristream config` for the known keys"
    if kind == "missing":
        return "add it; see `tristream config` for what it means"
    return "correct the value; see `tristream config` for what it means"


def _with_absolute_paths(run_file: RunFile, folder: Path) -> RunFile:
    """Resolve the input paths against the run file's folder; the output against where we are."""
    sources = tuple(
        source.model_copy(
            update={"train": folder / source.train, "eval": None if source.eval is None else folder / source.eval}
        )
        for source in run_file.sources
    )
    return run_file.model_copy(
        update={
            "sources": sources,
            "model": run_file.model.model_copy(update={"path": folder / run_file.model.path}),
            "run": run_file.run.model_copy(update={"output": run_file.run.output.absolute()}),
        }
    )
