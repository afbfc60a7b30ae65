"""Events of a run, made from a seed, and the one embedded ClickHouse of the test session."""

import json
import random
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring.store.clickhouse import open_embedded
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.migrations import migrate
from tristream.monitoring.store.run_facts import write_sources
from tristream.monitoring.store.sink import Sink
from tristream.monitoring.store.writer import Writer
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import events, topics
from tristream.wire.arrays import LogProbs, Tokens

VERIFIERS = {"digits_read": "ocr", "digits_count": "counting", "digits_sum": "math", "digits_find": "detection"}
SECOND_NS = 10**9


def make_settings(run: str, folder: Path, **monitoring: object) -> RunFile:
    """A run file with the four sources of the digits example."""
    return RunFile.model_validate(
        {
            "run": {"id": run, "steps": 6, "output": folder},
            "model": {"path": folder / "model"},
            "sources": [{"name": name, "train": folder / f"{name}.parquet"} for name in VERIFIERS],
            "rollout": {"groups_per_step": 8, "group_size": 4, "max_staleness": 1},
            "monitoring": {"flush_seconds": 0.1, **monitoring},
        }
    )


def make_png(width: int = 96, height: int = 64) -> bytes:
    """A grey PNG without an imaging library."""
    rows = b"".join(b"\x00" + bytes((200 + x) % 256 for x in range(width)) for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def make_task(source: str, _number: int) -> tuple[str, str, bytes]:
    """Question, ground truth and image of a row."""
    if source == "digits_find":
        truth = '<answer>\n[{"bbox_2d": [100, 200, 400, 700], "label": "7"}]\n</answer>'
        return "<image>Find every 7.", truth, make_png()
    return "<image>Add the digits.", "\\boxed{12}", make_png()


@dataclass
class Recipe:
    """Events of each kind with sensible defaults."""

    run: str
    task: Callable[[str, int], tuple[str, str, bytes]] = make_task
    created_ns: int = field(default_factory=time.time_ns)
    reward_details: Callable[[events.Group], Mapping[str, Any]] = lambda _group: {}
    """More of each reward, such as its metrics."""
    step_metrics: Mapping[str, float] = field(default_factory=dict)
    """More of what the learner reports of each step."""

    def group(self, number: int, source: str = "digits_sum", eval_step: int | None = None) -> events.Group:
        is_training = eval_step is None
        return events.Group(
            run=self.run, split=events.Split.TRAIN if is_training else events.Split.EVAL, number=number,
            source=source, sample_id=f"{source}-{number}", size=4 if is_training else 1, eval_step=eval_step or 0,
        )  # fmt: skip

    def spec(self, group: events.Group) -> events.RewardSpec:
        form = 0.1 if group.source == "digits_find" else 0.0
        name = VERIFIERS[group.source]
        terms = [events.RewardTerm(id=name, verifier=name, version="1", weights={"accuracy": 1.0, "format": form})]
        if name == "math":
            terms.append(
                events.RewardTerm(
                    id="math-strict", verifier="math-strict", version="1", weights={}, mode=events.TermMode.SHADOW
                )
            )
        return events.RewardSpec(terms=tuple(terms), ground_truth=self.task(group.source, group.number)[1])

    def image(self, group: events.Group) -> events.Image:
        data = self.task(group.source, group.number)[2]
        return events.Image(media_type="image/png", sha256=f"{zlib.crc32(data):064x}", size_bytes=len(data), data=data)

    def prompt(self, group: events.Group, step: int = 1) -> events.Prompt:
        return events.Prompt(
            group=group, messages=(events.Message(role="user", content=self.task(group.source, group.number)[0]),),
            images=(self.image(group),), reward=self.spec(group),
            sampling=events.Sampling(temperature=1.0, top_p=1.0, max_tokens=64, seed=1),
            progress=events.Progress(step=step, total_steps=6), created_ns=self.created_ns,
        )  # fmt: skip

    def rollout(self, group: events.Group, index: int, **changes: Any) -> events.Rollout:
        num_tokens, version = changes.pop("num_tokens", 10), changes.pop("version", 0)
        spans = (events.VersionSpan(version=version, start=0, end=num_tokens),)
        answer = events.sampled(Tokens.of([2] * num_tokens), LogProbs.of([-0.5] * num_tokens), spans)
        values: dict[str, Any] = {
            "group": group, "index": index,
            "segments": (events.given(Tokens.of([1] * 20), (self.image(group),)), answer),
            "text": "The sum is \\boxed{12}", "finish_reason": events.FinishReason.STOP,
            "prompt_text": self.task(group.source, group.number)[0],
            "reward": self.spec(group), "progress": events.Progress(step=version + 1, total_steps=6),
            "temperature": 1.0, "queued_seconds": 0.5, "generate_seconds": 1.5, "producer": "producer-1",
            "created_ns": self.created_ns,
        }  # fmt: skip
        return events.Rollout(**{**values, **changes})

    def reward(self, group: events.Group, index: int, accuracy: float, **changes: Any) -> events.Reward:
        values: dict[str, Any] = {
            "group": group, "index": index, "term_id": VERIFIERS[group.source], "verifier": VERIFIERS[group.source],
            "version": "1",
            "status": events.Status.SCORED, "components": {"accuracy": accuracy, "format": 1.0},
            "metrics": {"num_answers": 1.0}, "queued_seconds": 0.05, "score_seconds": 0.01,
            "created_ns": self.created_ns,
        }  # fmt: skip
        return events.Reward(**{**values, **self.reward_details(group), **changes})

    def outcome(
        self, group: events.Group, fate: events.Fate, step: int = 0, reason: events.DropReason | None = None,
        rewards: Sequence[float | None] = (), ages: Sequence[int] = (),
    ) -> events.Outcome:  # fmt: skip
        """What became of a group, as the assembler says it; without rewards each is 0.5."""
        rewards = rewards or [0.5] * group.size
        known = [reward for reward in rewards if reward is not None]
        worth = [
            events.RolloutOutcome(
                index=index, valid=reward is not None, reward=reward or 0.0, age=ages[index] if ages else 0,
                advantage=(reward - sum(known) / len(known)) if step and reward is not None else 0.0,
            )
            for index, reward in enumerate(rewards)
        ]  # fmt: skip
        return events.Outcome(group=group, fate=fate, step=step, drop_reason=reason, rollouts=tuple(worth),
                              has_zero_variance=len(known) > 1 and len(set(known)) == 1,
                              oldest_version=0, created_ns=self.created_ns)  # fmt: skip

    def trained(self, number: int, step: int, rewards: Sequence[float | None] = (1.0, 0.0, 0.0, 1.0)) -> events.Outcome:
        return self.outcome(self.group(number), events.Fate.TRAINED, step, rewards=rewards)

    def step(
        self, step: int, outcomes: Sequence[events.Outcome], *, total_steps: int = 6, entropy: float = 0.8
    ) -> events.StepReport:
        """A step that trained the valid rollouts of groups."""
        rollouts = [
            events.RolloutStatistics(
                group_number=outcome.group.number, index=rollout.index, mean_logprob=-0.5,
                mean_entropy=entropy + 0.1 * (outcome.group.number % 4), clip_fraction=0.01, mean_kl=0.002,
            )
            for outcome in outcomes for rollout in outcome.rollouts if rollout.valid
        ]  # fmt: skip
        return events.StepReport(
            run=self.run, step=step, total_steps=total_steps,
            metrics={"loss": 0.1 / step, "grad_norm": 1.0 + 1.0 / step, "learning_rate": 1e-4,
                     "logprob_mismatch_age_0": 0.001, "logprob_mismatch_age_1": 0.02, **self.step_metrics},
            layer_grad_norms={f"model.layers.{layer}": 0.1 * (layer + 1) + 0.5 / step for layer in range(4)},
            phase_seconds={"wait": 1.0, "forward_backward": 2.0, "optimizer": 0.25, "publish": 0.1},
            rollouts=tuple(rollouts), outcomes=tuple(outcomes), num_completion_tokens=10 * len(rollouts),
            created_ns=self.created_ns,
        )  # fmt: skip

    def policy(self, version: int) -> events.PolicyVersion:
        weights = events.Weights(version=version, uri=f"weights/{version}/model.safetensors", sha256="0" * 64)
        return events.PolicyVersion(
            run=self.run, weights=weights, total_steps=6, durable=events.Ledger(step=0), created_ns=self.created_ns
        )

    def part(self, part: events.Part, instance: str = "", **changes: Any) -> events.PartStatus:
        values: dict[str, Any] = {
            "run": self.run, "part": part, "instance": instance or f"host-{part}", "state": events.PartState.READY,
            "since_ns": self.created_ns, "started_ns": self.created_ns, "created_ns": self.created_ns,
        }  # fmt: skip
        return events.PartStatus(**{**values, **changes})

    def command(self, **changes: Any) -> events.Command:
        """What a person asked for; the run's own answer if its id ends as such."""
        values: dict[str, Any] = {
            "run": self.run, "id": "c-1", "kind": events.CommandKind.PROMOTE, "verifier": "math-strict",
            "version": "1", "weights": {"accuracy": 1.0}, "created_ns": self.created_ns,
        }  # fmt: skip
        return events.Command(**{**values, **changes})

    def dead_letter(self) -> events.DeadLetter:
        return events.DeadLetter(run=self.run, topic="rollouts", partition=0, offset=3, key=b"k", value=b"\xff\x00",
                                 headers={"source": b"digits_sum"}, error="not protobuf of this topic",
                                 part="assembler", created_ns=self.created_ns)  # fmt: skip


def final_reward(group: events.Group, accuracy: float) -> float:
    """What the assembler makes of a rollout of the recipe: the weighted mean of its components."""
    return (accuracy + 0.1) / 1.1 if group.source == "digits_find" else accuracy


@dataclass
class ExampleRun:
    """A run of the digits example: curves that rise, drops of each kind, three evaluation rounds."""

    bus: MemoryBus
    recipe: Recipe
    num_steps: int = 6
    draw: random.Random = field(default_factory=lambda: random.Random(7))

    def publish(self, *, groups_per_step: int = 8, seconds_per_step: float = 4.0) -> None:
        bus, recipe, number = self.bus, self.recipe, 0
        start_ns = time.time_ns() - int(self.num_steps * seconds_per_step * SECOND_NS)
        recipe.created_ns = start_ns
        bus.publish(topics.POLICY, recipe.policy(0))
        for step in range(self.num_steps + 1):
            recipe.created_ns = start_ns + int(step * seconds_per_step * SECOND_NS)
            if step % max(1, self.num_steps // 2) == 0:
                self.evaluate(step)
            if step == self.num_steps:
                break
            trained: list[events.Outcome] = []
            while len(trained) < groups_per_step:
                outcome = self.publish_group(recipe.group(number, list(VERIFIERS)[number % len(VERIFIERS)]), step)
                if outcome.fate is events.Fate.TRAINED:
                    trained.append(outcome)
                number += 1
            entropy = 1.2 - step / self.num_steps
            bus.publish(topics.STEPS, recipe.step(step + 1, trained, total_steps=self.num_steps, entropy=entropy))
            bus.publish(topics.POLICY, recipe.policy(step + 1))
        added = recipe.command(id="add/from/16", kind=events.CommandKind.ADD, from_number=16)
        bus.publish(topics.COMMANDS, added)
        bus.publish(topics.DEAD_LETTERS, recipe.dead_letter())
        self.publish_parts()

    def publish_parts(self) -> None:
        """Two producers and one of each other part, at work since the run began."""
        served = (*VERIFIERS.values(), "math-strict")
        loads = [events.VerifierLoad(verifier=name, version="1", num_scored=10) for name in served]
        for part in (*events.Part, events.Part.PRODUCER):
            status = self.recipe.part(
                part, f"host-{self.draw.randint(1000, 9999)}", waiting_for="prompts" if part == "producer" else "",
                started_ns=self.recipe.created_ns, measures={"version": self.num_steps},
                created_ns=time.time_ns() + 3600 * SECOND_NS,  # nobody falls silent, however long the tests take
                verifiers=tuple(loads) if part is events.Part.VERIFIER else (),
            )  # fmt: skip
            self.bus.publish(topics.PARTS, status)

    def publish_group(self, group: events.Group, step: int) -> events.Outcome:
        """One training group with all that happens to it, and what became of it."""
        bus, recipe, draw = self.bus, self.recipe, self.draw
        bus.publish(topics.PROMPTS, recipe.prompt(group, step + 1))
        skill = 0.25 + 0.6 * step / self.num_steps - 0.1 * (group.number % 4)
        accuracies = [float(draw.random() < skill) for _ in range(group.size)]
        ages = []
        for index, value in enumerate(accuracies):
            reason = events.FinishReason.LENGTH if draw.random() < 0.08 else events.FinishReason.STOP
            ages.append(min(step, draw.randint(0, 1)))
            rollout = recipe.rollout(group, index, text=self.answer(group, right=value == 1), finish_reason=reason,
                                     num_tokens=10 + draw.randint(0, 30), version=step - ages[-1],
                                     progress=events.Progress(step=step + 1, total_steps=6))  # fmt: skip
            bus.publish(topics.ROLLOUTS, rollout)
            bus.publish(topics.REWARDS, recipe.reward(group, index, value, score_seconds=0.002 + 0.02 * draw.random()))
        rewards = [final_reward(group, value) for value in accuracies]
        dropped = events.DropReason.ZERO_VARIANCE if len(set(rewards)) == 1 else None
        if dropped is None and draw.random() < 0.03:
            dropped = events.DropReason.STALE
        if dropped:
            outcome = recipe.outcome(group, events.Fate.DROPPED, 0, dropped, rewards)
        else:
            outcome = recipe.outcome(group, events.Fate.TRAINED, step + 1, None, rewards, ages)
        bus.publish(topics.OUTCOMES, outcome)
        return outcome

    def evaluate(self, step: int) -> None:
        """One evaluation round of twelve prompts a source."""
        for number in range(12 * len(VERIFIERS)):
            group = self.recipe.group(number, list(VERIFIERS)[number // 12], eval_step=step)
            right = self.draw.random() < 0.2 + 0.6 * step / self.num_steps
            text = self.answer(group, right=right)
            self.bus.publish(topics.PROMPTS, self.recipe.prompt(group, step))
            self.bus.publish(topics.ROLLOUTS, self.recipe.rollout(group, 0, version=step, text=text))
            self.bus.publish(topics.REWARDS, self.recipe.reward(group, 0, float(right)))
            rewards = [final_reward(group, float(right))]
            self.bus.publish(topics.OUTCOMES, self.recipe.outcome(group, events.Fate.EVALUATED, step, rewards=rewards))

    def answer(self, group: events.Group, *, right: bool) -> str:
        """An answer that is right, or wrong in a way that the source allows."""
        draw, truth = self.draw, self.recipe.task(group.source, group.number)[1]
        if group.source == "digits_find":
            items = json.loads(truth.removeprefix("<answer>\n").removesuffix("\n</answer>"))
            for item in items if not right else ():
                item["bbox_2d"] = [max(0, value + draw.randint(-120, 120)) for value in item["bbox_2d"]]
            return f"I look for it in the image.\n<answer>\n{json.dumps(items)}\n</answer>"
        thought = "Wait, let me re-check the digits. " if draw.random() < 0.3 else "Reading the digits. "
        return thought + "The answer is " + (truth if right else f"\\boxed{{{draw.randint(0, 99)}}}")


@pytest.fixture(scope="session")
def database_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded ClickHouse of the test session is."""
    return tmp_path_factory.mktemp("clickhouse")


@pytest.fixture(scope="session")
def client(database_folder: Path) -> Iterator[Client]:
    """The embedded ClickHouse: one a process, so tests share it and differ by run."""
    opened = open_embedded(database_folder)
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def write_run(
    client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[MemoryBus, Recipe, Callable[[], None]], None]], RunFile]:
    """Write a run of an id; a function publishes its events, and may call another to publish the example's."""

    def write(run: str, publish: Callable[[MemoryBus, Recipe, Callable[[], None]], None]) -> RunFile:
        made = make_settings(run, tmp_path_factory.mktemp(run))
        bus, recipe = MemoryBus(run), Recipe(run=run)
        publish(bus, recipe, ExampleRun(bus, recipe).publish)
        write_all(bus, client, made)
        return made

    return write


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> RunFile:
    """A run of this test alone."""
    return make_settings(f"run-{zlib.crc32(request.node.name.encode()):08x}", tmp_path)


@pytest.fixture
def recipe(settings: RunFile) -> Recipe:
    """Event maker of this test's run."""
    return Recipe(run=settings.run.id)


@pytest.fixture
def bus(settings: RunFile) -> MemoryBus:
    """The bus of this test's run."""
    return MemoryBus(settings.run.id)


@pytest.fixture
def write(bus: MemoryBus, client: Client, settings: RunFile) -> Callable[[], Sink]:
    """Write everything on the bus through a new sink, as one process life of the monitor does."""
    return lambda: write_all(bus, client, settings)


def write_all(bus: MemoryBus, client: Client, settings: RunFile) -> Sink:
    """Write everything on a bus."""
    stop = threading.Event()
    stop.set()
    write_sources(Writer(client, bus.run, report=print), settings.run.id, settings.sources)
    sink = Sink(bus, client, flush_seconds=0.1, stop=stop)
    sink.run()
    sink.close()
    return sink


@pytest.fixture
def make_run(recipe: Recipe) -> Callable[[MemoryBus, int], None]:
    """Publish a whole run of so many steps."""
    return lambda bus, num_steps: ExampleRun(bus, recipe, num_steps).publish()


@pytest.fixture(scope="session")
def example(client: Client, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """A whole run, written once, for tests that only read."""
    settings = make_settings("example", tmp_path_factory.mktemp("example"))
    bus = MemoryBus("example")
    ExampleRun(bus, Recipe(run="example")).publish()
    write_all(bus, client, settings)
    return settings


@pytest.fixture
def select(client: Client, settings: RunFile) -> Callable[[str], list[Mapping[str, Any]]]:
    """Rows for this test's run, as dictionaries; the query binds ``{run:String}``."""

    def select_rows(query: str) -> list[Mapping[str, Any]]:
        result = client.query(query, {"run": settings.run.id})
        return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]

    return select_rows


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium that keeps what pages write to the console."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("chromium and chromedriver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    # What is off the screen is not drawn, so the screen is as tall as the page.
    metrics = {"width": 1440, "height": 6000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    yield driver
    driver.quit()
