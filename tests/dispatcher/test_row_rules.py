"""Poison in data: refused by what the first bytes say, before any memory is spent."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from own_process import in_own_process
from tristream.config.rollout import RolloutSection
from tristream.config.sources import SourceSection
from tristream.config.store import FilesStoreSection
from tristream.config.verification import VerificationSection
from tristream.dispatcher.data.png_check import check_png
from tristream.dispatcher.data.row_rules import RowRules
from tristream.dispatcher.data.sample_table import SampleTable
from tristream.dispatcher.data.source_files import check_sources, load_sources
from tristream.dispatcher.data.vtriune_rows import RowError
from tristream.policy.image_header import ImageRefusedError
from tristream.runtime.errors import UserError
from tristream.wire.topics import MAX_RECORD_BYTES

MakeRow = Callable[..., dict[str, Any]]
WriteRows = Callable[[str, list[dict[str, Any]]], Path]
MakeImage = Callable[[int, int, int], bytes]

RULES = RowRules(max_image_pixels=50_000_000, max_image_bytes=64 * 2**20, inline_image_bytes=65536)


def make_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = make_chunk(b"IHDR", header) + make_chunk(b"IDAT", pixels) + make_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def encode(image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, image_format)
    return buffer.getvalue()


def make_bomb(kind: str) -> bytes:
    if kind == "png":
        return make_png(20_000, 20_000, zlib.compress(bytes(20_000 * 2501), 9))
    if kind == "small-png":
        return make_png(13_000, 13_000, zlib.compress(bytes(13_000 * 1626), 9))
    if kind == "gif":
        return b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b"," + bytes(4) + bytes(5) + b"\x02\x00;"
    if kind == "webp":
        content = b"\x2f" + (16_382 | 16_382 << 14).to_bytes(4, "little") + bytes(20)
        return b"RIFF" + struct.pack("<I", 12 + len(content)) + b"WEBPVP8L" + struct.pack("<I", len(content)) + content
    if kind == "tiff":
        return b"II*\x00" + bytes(200)
    return b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(200)


def load_one(row: dict[str, Any], write_rows: WriteRows, make_row: MakeRow, rules: RowRules = RULES) -> list[str]:
    """Reasons against the middle one of three rows."""
    table = SampleTable.load(write_rows("rows", [make_row(0), row, make_row(2)]), "rows", rules)
    assert len(table) + len(table.file.bad_rows) == 3
    assert all(bad.row_number == 1 for bad in table.file.bad_rows)
    return [bad.reason for bad in table.file.bad_rows]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("png", "an image of 20000 x 20000 pixels is too large"),
        ("small-png", "an image of 13000 x 13000 pixels is too large"),
        ("gif", "an image of 60000 x 60000 pixels is too large"),
        ("webp", "an image of 16383 x 16383 pixels is too large"),
        ("tiff", "is of no known kind"),
        ("jpeg2000", "is of no known kind"),
    ],
)
def test_a_bomb_is_refused_before_memory_is_spent(
    make_row: MakeRow, write_rows: WriteRows, kind: str, reason: str
) -> None:
    bomb = make_bomb(kind)
    assert len(bomb) < 100_000
    row = make_row(1, images=[{"bytes": bomb, "path": None}])
    assert load_one(make_row(1), write_rows, make_row) == []  # what is imported for it is not counted
    tracemalloc.start()
    (found,) = load_one(row, write_rows, make_row)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reason in found
    assert peak < 4 * 2**20


@in_own_process
def test_a_png_that_inflates_to_more_than_its_pixels_is_not_inflated_further() -> None:
    data = make_png(64, 64, zlib.compress(bytes(200 * 2**20), 9))
    tracemalloc.start()
    check_png(data, 64 * 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_whole_image_passes_and_a_cut_one_does_not(
    make_row: MakeRow, write_rows: WriteRows, image_format: str
) -> None:
    whole = encode(image_format)
    assert load_one(make_row(1, images=[{"bytes": whole, "path": None}]), write_rows, make_row) == []
    (reason,) = load_one(make_row(1, images=[{"bytes": whole[: len(whole) // 2], "path": None}]), write_rows, make_row)
    assert "cut off" in reason or "holds no frame" in reason


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pngs_of_every_mode_pass(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (37, 21)).save(buffer, "PNG")
    check_png(buffer.getvalue(), 37 * 21)


def test_a_png_with_damaged_pixels_is_refused(make_image: MakeImage) -> None:
    data = bytearray(make_image(64, 64, 1))
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageRefusedError, match="damaged in its chunk IDAT"):
        check_png(bytes(data), 64 * 64)
    for pixels, reason in ((b"no deflate stream", "are damaged"), (zlib.compress(b"short"), "are not all there")):
        with pytest.raises(ImageRefusedError, match=reason):
            check_png(make_png(64, 64, pixels), 64 * 64)


@pytest.mark.parametrize("place", ["prompt", "ground_truth", "id"])
def test_a_row_of_lone_surrogates_is_named_and_its_neighbours_are_kept(
    make_row: MakeRow, tmp_path: Path, place: str
) -> None:
    """Parquet holds bytes: what is called text may be none."""
    marker, surrogate = "XXX", b"\xed\xa0\x80"
    rows = [make_row(number) for number in range(3)]
    rows[1]["prompt"][0]["content"] += marker if place == "prompt" else ""
    rows[1]["reward_model"]["ground_truth"] += marker if place == "ground_truth" else ""
    rows[1]["extra_info"]["id"] += marker if place == "id" else ""
    path = tmp_path / "surrogates.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, compression="none", use_dictionary=False, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(marker.encode(), surrogate))
    table = SampleTable.load(path, "sums", RULES)
    assert [(row.row_number, "not UTF-8" in row.reason) for row in table.file.bad_rows] == [(1, True)]
    assert [sample.sample_id for sample in table] == ["row-0", "row-2"]


def test_half_a_surrogate_pair_is_refused_in_every_text(make_row: MakeRow, write_rows: WriteRows) -> None:
    sample = SampleTable.load(write_rows("one", [make_row()]), "one", RULES)[0]
    message = replace(sample.messages[0], content="\ud800")
    for changed in (
        replace(sample, sample_id="\ud800"),
        replace(sample, ground_truth="\udfff"),
        replace(sample, messages=(message,)),
    ):
        with pytest.raises(RowError, match="half a surrogate pair"):
            RULES.check(changed)


def test_a_prompt_that_fits_into_no_record_is_refused(make_row: MakeRow, write_rows: WriteRows) -> None:
    row = make_row(1, prompt=[{"role": "user", "content": "<image>" + "a" * MAX_RECORD_BYTES}])
    (reason,) = load_one(row, write_rows, make_row)
    assert "bytes of text and inline images" in reason
    image = encode("BMP")
    many = {
        "images": [{"bytes": image + bytes(50_000), "path": None}] * 200,
        "prompt": [{"role": "user", "content": "<image>" * 200}],
    }
    (reason,) = load_one(make_row(1, **many), write_rows, make_row)
    assert "bytes of text and inline images" in reason
    by_reference = RowRules(max_image_pixels=10**6, max_image_bytes=10**6, inline_image_bytes=0)
    assert load_one(make_row(1, **many), write_rows, make_row, by_reference) == []


def test_an_image_that_the_store_would_not_give_back_is_refused(make_row: MakeRow, write_rows: WriteRows) -> None:
    rules = RowRules(max_image_pixels=10**6, max_image_bytes=10_000, inline_image_bytes=65536)
    row = make_row(1, images=[{"bytes": encode("BMP") + bytes(9_000), "path": None}])
    (reason,) = load_one(row, write_rows, make_row, rules)
    assert "store.max_image_bytes is 10000" in reason


def make_source(path: Path, **changes: Any) -> SourceSection:
    return SourceSection(name="sums", train=path, **changes)


def test_refused_rows_are_named_at_once_the_first_ten_and_how_many_more(
    make_row: MakeRow, write_rows: WriteRows
) -> None:
    good = write_rows("good", [make_row()])
    bad = write_rows("bad", [make_row(n, accuracy_ratio=float("nan") if n % 2 else 1.0) for n in range(30)])
    with pytest.raises(UserError) as caught:
        check_sources([make_source(good), make_source(bad)], RULES)
    assert caught.value.where == str(bad)
    assert caught.value.what.startswith("15 rows cannot be used: row 1: reward_model.accuracy_ratio is nan; row 3: ")
    assert caught.value.what.endswith("row 19: reward_model.accuracy_ratio is nan; and 5 more")
    assert 'on_bad_row = "skip"' in caught.value.remedy
    worse = write_rows("worse", [make_row(), make_row(accuracy_ratio=float("nan"))])
    with pytest.raises(
        UserError, match=r"16 rows cannot be used: worse\.parquet row 1: .*; bad\.parquet row 1: "
    ) as two:
        load_sources([make_source(good, eval=worse), make_source(bad)], RULES)
    assert two.value.where == "[[sources]]"


def test_a_single_bad_row_is_named_with_its_file_and_its_own_remedy(make_row: MakeRow, write_rows: WriteRows) -> None:
    path = write_rows("bad", [make_row(), make_row(1, verifier="orc")])
    with pytest.raises(UserError, match=r"bad.parquet row 1: asks for the verifier 'orc', .* use one of choice, "):
        load_sources([make_source(path)], RULES)


def test_skipped_rows_are_no_error_unless_nothing_is_left(make_row: MakeRow, write_rows: WriteRows) -> None:
    rows = [make_row(0), make_row(1, accuracy_ratio=float("nan"))]
    ((train, _),) = load_sources([make_source(write_rows("half", rows), on_bad_row="skip")], RULES)
    assert (len(train), len(train.file.bad_rows)) == (1, 1)
    nothing = make_source(write_rows("nothing", rows[1:]), on_bad_row="skip")
    with pytest.raises(UserError, match=r"has no row that can be used: row 0: reward_model\.accuracy_ratio is nan"):
        check_sources([nothing], RULES)


def test_verifiers_of_the_run_file_may_be_asked_for(make_row: MakeRow, write_rows: WriteRows) -> None:
    plug_ins = VerificationSection(plug_ins={"brief@3": "/x/brief.py:brief"})
    rules = RowRules.of(RolloutSection(), FilesStoreSection(), plug_ins)
    path = write_rows("plug-in", [make_row(0, verifier="brief")])
    assert SampleTable.load(path, "plug-in", rules).file.weighted_verifiers == {frozenset({"brief"})}
    with pytest.raises(UserError, match="asks for the verifier 'brief', which does not exist"):
        load_sources([make_source(path)], RULES)
