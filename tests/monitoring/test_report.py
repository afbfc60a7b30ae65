"""The report: one small file, whole or absent, with everything inside and nothing of the model's as HTML."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tristream.config.run_file import RunFile
from tristream.monitoring import report
from tristream.monitoring.queries.overview import read_groups
from tristream.monitoring.queries.summary import read_summary
from tristream.monitoring.report import MAX_BYTES, write_report
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import topics


def summarize(client: Client, run: str) -> dict[str, Any]:
    facts = read_summary(client, run)
    seconds = {"ready": 3.0, "total": 27.0} | {f"learner_{name}": value for name, value in facts["phases"].items()}
    return {
        "steps": facts["steps"],
        "sources": facts["sources"],
        "groups": read_groups(client, run),
        "seconds": seconds,
    }


def read_data(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text.split('id="data">')[1].split("</script>")[0])
    return data


def test_the_report_is_one_small_file_that_loads_nothing(client: Client, example: RunFile, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(client, example, summarize(client, example.run.id), path)
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    assert list(tmp_path.glob("*.tmp")) == []
    head = text.split("<script", maxsplit=1)[0]
    assert "default-src 'none'" in head
    assert "src=" not in head
    assert "href=" not in head.replace('href="data:,"', "")


def test_the_report_has_numbers_curves_images_and_the_run_file(
    client: Client, example: RunFile, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    write_report(client, example, summarize(client, example.run.id), path)
    data = read_data(path)
    facts = data["summary"]["sources"]["digits_sum"]
    assert facts["eval_after"] > facts["eval_before"]
    assert data["curves"]["metrics"]["loss"]["x"] == [1, 2, 3, 4, 5, 6]
    assert all(address.startswith("data:image/png;base64,") for address in data["images"].values())
    assert data["examples"]["digits_find"]["best"][0]["image_hashes"][0] in data["images"]
    assert json.loads(data["run_file"])["run"]["id"] == "example"


def test_a_script_in_a_models_answer_stays_text(
    client: Client, bus: MemoryBus, recipe: Any, write: Callable[[], object], settings: RunFile, tmp_path: Path
) -> None:
    evil = "</script><script>alert('evil')</script><!--"
    bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0), 0, text=evil))
    bus.publish(topics.REWARDS, recipe.reward(recipe.group(0), 0, 1.0))
    bus.publish(topics.STEPS, recipe.step(1, [recipe.trained(0, 1)]))
    write()
    path = tmp_path / "report.html"
    write_report(client, settings, summarize(client, settings.run.id), path)
    assert "<script>alert('evil')" not in path.read_text(encoding="utf-8")
    assert read_data(path)["examples"]["digits_sum"]["best"][0]["text"] == evil


def test_images_beyond_the_budget_are_left_out(
    client: Client, example: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_IMAGE_BYTES", 10)
    path = tmp_path / "report.html"
    write_report(client, example, summarize(client, example.run.id), path)
    assert read_data(path)["images"] == {}


def test_a_run_without_events_has_a_report(client: Client, settings: RunFile, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(client, settings, summarize(client, settings.run.id), path)
    assert read_data(path)["examples"] == {}


def test_the_password_of_the_database_stays_secret(client: Client, example: RunFile, tmp_path: Path) -> None:
    monitoring = example.monitoring.model_copy(update={"clickhouse_url": "http://ada:s3cret@host:8123/db"})
    path = tmp_path / "report.html"
    settings = example.model_copy(update={"monitoring": monitoring})
    write_report(client, settings, summarize(client, example.run.id), path)
    assert "s3cret" not in path.read_text(encoding="utf-8")
    assert json.loads(read_data(path)["run_file"])["monitoring"]["clickhouse_url"] == "http://ada@host:8123/db"
