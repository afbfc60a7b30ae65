"""What changed while a run went on: in words, at its step, and never what was only asked for or refused."""

from collections.abc import Callable, Mapping
from typing import Any

from tristream.config.run_file import RunFile
from tristream.monitoring.queries.overview import read_overview
from tristream.monitoring.queries.summary import read_summary
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import topics
from tristream.wire.events import CommandKind, Part, TermMode, VerifierLoad

Select = Callable[[str], list[Mapping[str, Any]]]


def publish_changes(bus: MemoryBus, recipe: Any) -> None:
    for number in range(8):
        bus.publish(topics.PROMPTS, recipe.prompt(recipe.group(number), step=1 + number // 2))
    for step in (1, 2):
        recipe.created_ns += 10**9
        bus.publish(topics.STEPS, recipe.step(step, [recipe.trained(step, step)]))
    told: list[tuple[str, CommandKind, dict[str, Any]]] = [
        ("a", CommandKind.ADD, {"verifier": "brief", "sources": ("digits_sum", "digits_read")}),
        (
            "a/from/3",
            CommandKind.ADD,
            {"verifier": "brief", "sources": ("digits_sum", "digits_read"), "from_number": 3},
        ),
        ("p/from/4", CommandKind.PROMOTE, {"verifier": "brief", "from_number": 4, "from_version": 2}),
        ("no/from/5", CommandKind.PROMOTE, {"verifier": "tone", "refusal": "it has no tone@1"}),
        (
            "waiting/0/pause_source/digits_sum/6",
            CommandKind.PAUSE_SOURCE,
            {
                "verifier": "",
                "version": "",
                "sources": ("digits_sum",),
                "from_number": 6,
                "reason": "waits for brief@1",
            },
        ),
        ("r/from/100", CommandKind.RETIRE, {"verifier": "brief", "from_number": 100}),
        ("extend/12", CommandKind.EXTEND, {"verifier": "", "version": "", "total_steps": 12}),
    ]
    for identity, kind, changes in told:
        recipe.created_ns += 10**6
        bus.publish(topics.COMMANDS, recipe.command(id=identity, kind=kind, **changes))


def test_changes_are_marked_at_the_step_of_their_first_prompt(
    bus: MemoryBus, recipe: Any, write: Callable[[], object], client: Client, settings: RunFile
) -> None:
    publish_changes(bus, recipe)
    write()
    changes = read_overview(client, settings.run.id)["changes"]
    assert [(row["text"], row["at_step"]) for row in reversed(changes)] == [
        ("add brief@1 in digits_sum, digits_read", 2),
        ("promote brief@1", 3),
        ("pause digits_sum", 4),
        ("retire brief@1", 2),
        ("extend to 12 steps", 2),
    ]
    named = read_summary(client, settings.run.id)["verifier_changes"]
    assert [(row["kind"], row["from_number"]) for row in named] == [("add", 3), ("promote", 4), ("retire", 100)]


def test_a_verifier_is_shown_as_it_was_commanded_last(
    bus: MemoryBus, recipe: Any, write: Callable[[], object], client: Client, settings: RunFile
) -> None:
    def mode() -> str:
        write()
        rows = {(r["verifier"], r["version"]): r for r in read_overview(client, settings.run.id)["verifiers"]}
        return str(rows["brief", "1"]["mode"])

    loads = (VerifierLoad(verifier="brief", version="1", num_scored=3),)
    bus.publish(topics.PARTS, recipe.part(Part.VERIFIER, verifiers=loads))
    bus.publish(topics.REWARDS, recipe.reward(recipe.group(0), 0, 1.0, verifier="brief", mode=TermMode.SHADOW))
    assert mode() == "unused"
    kinds = (CommandKind.ADD, CommandKind.PROMOTE, CommandKind.DEMOTE, CommandKind.RETIRE)
    for number, (kind, shown) in enumerate(zip(kinds, ("shadow", "active", "shadow", "retired"), strict=True)):
        recipe.created_ns += 10**6
        bus.publish(topics.COMMANDS, recipe.command(id=f"{kind}/from/{number}", kind=kind, verifier="brief"))
        assert mode() == shown
