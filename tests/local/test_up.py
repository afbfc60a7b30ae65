"""What ``tristream up`` decides before it starts anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tristream.config.run_file import RunFile
from tristream.local.broker import Broker
from tristream.local.results import change_lines, components_before_and_after
from tristream.local.up import START_ORDER, STOP_ORDER, with_free_id, with_local_addresses, with_own_broker
from tristream.wire.events import Part

MakeSettings = Callable[..., RunFile]


def test_every_part_is_started_and_stopped() -> None:
    assert sorted(START_ORDER) == sorted(STOP_ORDER) == sorted(Part)
    assert STOP_ORDER.index(Part.LEARNER) < STOP_ORDER.index(Part.ASSEMBLER)
    assert STOP_ORDER[-1] is Part.MONITOR


def test_a_finished_run_is_started_anew_under_the_next_free_id(make_settings: MakeSettings) -> None:
    settings = make_settings()
    assert with_free_id(settings).run.id == "demo"
    for name in ("demo", "demo-2"):
        folder = settings.run.output / name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
    assert with_free_id(settings).run.id == "demo-3"


def test_the_assembler_gets_a_free_port_unless_it_has_an_address_of_its_own(make_settings: MakeSettings) -> None:
    default = make_settings()
    host, _, port = with_local_addresses(default).assembly.address.partition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert with_local_addresses(default).assembly.address != default.assembly.address
    own = make_settings(assembly={"address": "127.0.0.1:7777"})
    assert with_local_addresses(own) == own


def test_the_embedded_broker_is_asked_seldom_and_for_little_unless_the_run_file_says_otherwise(
    make_settings: MakeSettings,
) -> None:
    def num_partitions_and_linger(settings: RunFile, *, durable: bool) -> tuple[int | None, float | None]:
        bus = with_own_broker(settings, Broker("any", [], 1, Path("broker.log"), durable=durable)).bus
        assert bus.bootstrap_servers == "127.0.0.1:1"
        return bus.num_partitions, bus.linger_seconds

    assert num_partitions_and_linger(make_settings(), durable=False) == (2, 0.05)
    assert num_partitions_and_linger(make_settings(), durable=True) == (None, None)
    own = make_settings(bus={"num_partitions": 8, "linger_seconds": 0})
    assert num_partitions_and_linger(own, durable=False) == (8, 0)


def test_parts_of_one_machine_serve_their_metrics_at_free_ports(make_settings: MakeSettings) -> None:
    assert with_local_addresses(make_settings()).metrics.port is None
    assert with_local_addresses(make_settings(metrics={"port": 9464})).metrics.port == 0


def test_the_summary_names_what_changed_among_the_verifiers() -> None:
    change = {"from_number": 64, "text": "promote brief@1 in sums"}
    assert change_lines({"verifier_changes": []}) == []
    assert change_lines({"verifier_changes": [change]}) == ["from prompt 64 on: promote brief@1 in sums"]
    assert change_lines({"verifier_changes": [change] * 25})[-1] == "and 5 more changes in summary.json"


def test_components_beside_the_metric_are_shown_by_source_and_as_a_mean() -> None:
    def facts(**components: tuple[float, float]) -> dict[str, Any]:
        numbers = {f"{name}.{name}": {"eval_before": b, "eval_after": a} for name, (b, a) in components.items()}
        return {"metric": "accuracy", "components": numbers}

    table = components_before_and_after(
        {
            "read": facts(accuracy=(0.0, 1.0), content=(0.25, 0.5), format=(1.0, 1.0)),
            "sum": facts(accuracy=(0.0, 1.0), content=(0.5, 1.0)),
        }
    )
    assert table is not None
    rows = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert rows == [
        ("read", "content (content)", "0.250", "0.500", "+0.250"),
        ("read", "format (format)", "1.000", "1.000", "+0.000"),
        ("sum", "content (content)", "0.500", "1.000", "+0.500"),
        ("mean", "content", "0.375", "0.750", "+0.375"),
    ]
    assert components_before_and_after({"sum": facts(accuracy=(0.0, 1.0))}) is None
