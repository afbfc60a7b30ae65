import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tristream.dispatcher.data.row_rules import RowRules
from tristream.dispatcher.data.sample_table import SampleTable
from tristream.dispatcher.data.samples import SampleTerm
from tristream.dispatcher.data.vtriune_rows import RowError, parse_row, sniff_media_type
from tristream.dispatcher.prompt_making import overlay_parameters
from tristream.runtime.errors import UserError
from tristream.wire.events import Message

MakeRow = Callable[..., dict[str, Any]]
WriteRows = Callable[[str, list[dict[str, Any]]], Path]

RULES = RowRules(max_image_pixels=10**6, max_image_bytes=10**6, inline_image_bytes=65536)
DETECTION = {"det_verifier_normalized": True, "det_reward_ratio": {"iou_max_label_first": 1.0, "map": None}}


def test_a_row_becomes_a_sample(make_row: MakeRow, write_rows: WriteRows) -> None:
    table = SampleTable.load(write_rows("sums", [make_row(3), make_row(4, extra_info={"id": None})]), "sums", RULES)
    first, second = table
    assert (len(table), first.source, first.sample_id, second.sample_id) == (2, "sums", "row-3", "1")
    assert first.messages == (Message(role="user", content="<image>What is 3?"),)
    assert first.images[0].media_type == "image/png"
    assert first.ground_truth == "\\boxed{4}"
    assert first.terms == (SampleTerm(verifier="math", weights={"accuracy": 1.0, "format": 0.1}, params_json="{}"),)


def test_ratios_of_a_float32_column_are_the_decimals_that_were_meant(make_row: MakeRow, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([make_row()])
    reward_model = table.column("reward_model").combine_chunks()
    fields = [reward_model.field(name) for name in reward_model.type.names]
    narrow = [field.cast(pa.float32()) if field.type == pa.float64() else field for field in fields]
    position = table.schema.get_field_index("reward_model")
    struct = pa.StructArray.from_arrays(narrow, names=list(reward_model.type.names))
    pq.write_table(table.set_column(position, "reward_model", struct), tmp_path / "narrow.parquet")
    assert SampleTable.load(tmp_path / "narrow.parquet", "sums", RULES)[0].terms[0].weights == {
        "accuracy": 1.0,
        "format": 0.1,
    }


def test_parameters_lose_their_nulls_and_take_those_of_the_run_file(make_row: MakeRow, write_rows: WriteRows) -> None:
    path = write_rows("find", [make_row(verifier="detection", verifier_parm=DETECTION)])
    term = SampleTable.load(path, "find", RULES)[0].terms[0]
    assert json.loads(term.params_json) == {
        "det_verifier_normalized": True,
        "det_reward_ratio": {"iou_max_label_first": 1.0},
    }
    overlaid = overlay_parameters(term, {"det_reward_ratio": {"map": 0.5}, "iou_threshold": 0.9})
    assert json.loads(overlaid.params_json) == {
        "det_verifier_normalized": True,
        "det_reward_ratio": {"iou_max_label_first": 1.0, "map": 0.5},
        "iou_threshold": 0.9,
    }


def test_text_rows_need_no_images_column(make_row: MakeRow, write_rows: WriteRows) -> None:
    row = make_row(prompt=[{"role": "user", "content": "What is 2 + 2?"}])
    del row["images"], row["extra_info"]
    assert SampleTable.load(write_rows("text", [row]), "text", RULES)[0].images == ()


def test_the_reward_model_may_be_a_list_whose_first_has_the_ground_truth(
    make_row: MakeRow, write_rows: WriteRows
) -> None:
    reward_model = make_row()["reward_model"]
    second = {**reward_model, "verifier": "counting", "ground_truth": None, "format_ratio": 0.0}
    sample = SampleTable.load(write_rows("two", [make_row(reward_model=[reward_model, second])]), "two", RULES)[0]
    assert [(term.verifier, term.weights["format"]) for term in sample.terms] == [("math", 0.1), ("counting", 0.0)]
    assert sample.ground_truth == "\\boxed{4}"
    with pytest.raises(RowError, match="reward_model is missing"):
        parse_row(make_row(reward_model=[]), "none", 0)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"verifier": ""}, "reward_model.verifier is missing"),
        ({"ground_truth": None}, "reward_model.ground_truth is missing"),
        ({"accuracy_ratio": None}, "reward_model.accuracy_ratio is missing"),
        ({"accuracy_ratio": float("inf")}, r"reward_model.accuracy_ratio is inf"),
        ({"accuracy_ratio": float("nan")}, r"reward_model.accuracy_ratio is nan"),
        ({"accuracy_ratio": 0.0, "format_ratio": 0.0}, "are both 0"),
        ({"reward_model": None}, "reward_model is missing"),
        ({"ability": "x" * 70_000}, "its further columns take 70[0-9]{3} bytes as JSON, 65536 fit"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [{"role": "user", "content": "no marker"}]}, "0 <image> markers and the row has 1 images"),
        ({"images": [{"bytes": None, "path": "a.png"}]}, "image 0 has no bytes"),
        ({"images": [{"bytes": b"not an image", "path": None}]}, "image 0 is of no known kind"),
        ({"verifier": "orc"}, "asks for the verifier 'orc', which does not exist"),
    ],
)
def test_a_bad_row_is_left_out_and_listed(
    make_row: MakeRow, write_rows: WriteRows, changes: dict[str, Any], what: str
) -> None:
    path = write_rows("bad", [make_row(0), make_row(1, **changes), make_row(2)])
    table = SampleTable.load(path, "bad", RULES)
    assert [(row.row_number, re.search(what, row.reason) is not None) for row in table.file.bad_rows] == [(1, True)]
    assert [sample.messages[0].content for sample in table] == ["<image>What is 0?", "<image>What is 2?"]


def test_rows_keep_their_numbers_when_others_are_left_out(make_row: MakeRow, write_rows: WriteRows) -> None:
    rows = [
        make_row(number, extra_info={"id": None}, accuracy_ratio=float("nan") if number % 3 else 1.0)
        for number in range(9)
    ]
    table = SampleTable.load(write_rows("third", rows), "third", RULES)
    assert [sample.sample_id for sample in table] == ["0", "3", "6"]


def test_files_that_are_not_rows_are_refused(tmp_path: Path, make_row: MakeRow, write_rows: WriteRows) -> None:
    with pytest.raises(UserError, match="no such file"):
        SampleTable.load(tmp_path / "missing.parquet", "a", RULES)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(UserError, match="is not a Parquet file"):
        SampleTable.load(tmp_path / "text.parquet", "a", RULES)
    damaged = write_rows("damaged", [make_row(number) for number in range(50)])
    content = bytearray(damaged.read_bytes())
    content[4:2000] = bytes(1996)
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        SampleTable.load(damaged, "a", RULES)
    with pytest.raises(UserError, match="has no rows"):
        SampleTable.load(write_empty(tmp_path, make_row()), "a", RULES)
    row = make_row()
    del row["reward_model"]
    with pytest.raises(UserError, match="has no column 'reward_model'"):
        SampleTable.load(write_rows("short", [row]), "a", RULES)


def write_empty(folder: Path, row: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist([row]).slice(0, 0), folder / "empty.parquet")
    return folder / "empty.parquet"


def test_media_types_come_from_the_bytes() -> None:
    assert sniff_media_type(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert sniff_media_type(b"RIFF\x00\x00\x00\x00WEBP") == "image/webp"
    assert sniff_media_type(b"<svg>") is None


def test_weights_may_be_given_by_component_and_a_negative_one_is_a_penalty(
    make_row: MakeRow, write_rows: WriteRows
) -> None:
    reward_model = make_row()["reward_model"]
    ratios = {"accuracy_ratio": None, "format_ratio": None}
    weights = [{"tone": 2.0, "length": -0.5}, {"tone": None, "length": 1.0}]
    rows = [make_row(n, reward_model={**reward_model, **ratios, "weights": given}) for n, given in enumerate(weights)]
    table = SampleTable.load(write_rows("weights", rows), "weights", RULES)
    assert [sample.terms[0].weights for sample in table] == [{"tone": 2.0, "length": -0.5}, {"length": 1.0}]
    penalty = SampleTable.load(write_rows("penalty", [make_row(format_ratio=-0.25)]), "penalty", RULES)[0]
    assert penalty.terms[0].weights == {"accuracy": 1.0, "format": -0.25}
    as_map = make_row(reward_model={**reward_model, **ratios, "weights": [("tone", 1.0)]})
    assert parse_row(as_map, "map", 0).terms[0].weights == {"tone": 1.0}


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ({"tone": 0.0}, "all of reward_model.weights are 0"),
        ({"tone": float("inf")}, "reward_model.weights.tone is inf"),
        ({"tone": True}, "reward_model.weights.tone is True"),
        ("tone", "reward_model.weights is not a struct"),
    ],
)
def test_weights_that_are_none_are_refused(make_row: MakeRow, weights: object, what: str) -> None:
    reward_model = {**make_row()["reward_model"], "weights": weights}
    with pytest.raises(RowError, match=what):
        parse_row(make_row(reward_model=reward_model), "bad", 0)


def test_further_columns_are_what_verifiers_may_read(make_row: MakeRow, write_rows: WriteRows) -> None:
    row = make_row(
        extra_info={"id": "7", "level": 3, "hint": None, "blob": b"x", "ability": "below"},
        ability="math",
        tags=["a", "b"],
        score=float("nan"),
        picture=b"not JSON",
        when=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        word="größer",
    )
    sample = SampleTable.load(write_rows("columns", [row]), "columns", RULES)[0]
    assert json.loads(sample.columns_json) == {
        "ability": "math",
        "data_source": "sums",
        "id": "7",
        "level": 3,
        "tags": ["a", "b"],
        "word": "größer",
    }
    bare = make_row(prompt=[{"role": "user", "content": "What?"}], images=[])
    for name in ("extra_info", "ability", "data_source"):
        del bare[name]
    assert parse_row(bare, "bare", 0).columns_json == "{}"
