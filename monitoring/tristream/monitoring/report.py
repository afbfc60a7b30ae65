"""The report: what a run did, as one HTML file that needs nothing else and loads nothing.

It stays below ``MAX_BYTES`` however long the run and however large its images: curves are thinned, and
images beyond a budget are left out.
"""

import base64
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.config.secrets import without_secrets
from tristream.monitoring.metrics import SOURCE_METRICS
from tristream.monitoring.page.answer_cache import to_json
from tristream.monitoring.page.assets_of_page import report_html
from tristream.monitoring.page.routes import IMAGE_TYPES, image_bytes
from tristream.monitoring.queries.curves import read_curves, read_layers
from tristream.monitoring.queries.gallery import read_extreme_rollouts, read_image_row
from tristream.monitoring.queries.overview import describe_run, read_overview
from tristream.monitoring.store.client import Client
from tristream.runtime.hooks import reach
from tristream.runtime.store import BlobError, BlobStore, open_store

MAX_BYTES = 6_000_000
MAX_IMAGE_BYTES = 450_000
"""Of all images together, before base64."""
MAX_CURVE_VALUES = 20_000
MAX_EXAMPLES = 48
MAX_TEXT = 1200
"""Characters of a question, an answer or a truth."""


def write_report(client: Client, settings: RunFile, summary: dict[str, Any], path: Path) -> None:
    """Write the report of a run, or replace it as a whole.

    Args:
        client: the database with the run's events.
        settings: the run, resolved; it is shown in full.
        summary: what the run came to: ``steps``, ``sources`` (``metric``, ``eval_before``, ``eval_after``
            of each), ``groups`` (``dispatched``, ``trained``, ``pending``, ``dropped`` by reason) and
            ``seconds`` by phase, where the learner's phases start with ``learner_``.
        path: the file to write.
    """
    html = report_html(settings.run.id, to_json(_collect(client, settings, summary)).decode())
    temporary = path.with_suffix(".tmp")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(path)
    reach("report.renamed")


def _collect(client: Client, settings: RunFile, summary: dict[str, Any]) -> dict[str, Any]:
    run, num_sources = settings.run.id, len(settings.sources)
    max_points = max(20, min(400, MAX_CURVE_VALUES // (len(SOURCE_METRICS) * num_sources)))
    examples = read_extreme_rollouts(client, run, max(1, min(3, MAX_EXAMPLES // (2 * num_sources))))
    shown = [row for kinds in examples.values() for rows in kinds.values() for row in rows]
    for row in shown:
        for key in ("prompt", "text", "truth"):
            row[key] = row[key][:MAX_TEXT]
    hashes = (digest for row in shown for digest in row["image_hashes"])
    return {
        "summary": summary,
        "overview": read_overview(client, run) | {"settings": describe_run(MonitorSettings.of(settings))},
        "curves": read_curves(client, run, max_points),
        "layers": read_layers(client, run),
        "examples": examples,
        "images": _collect_images(client, run, partial(open_store, settings.store, settings.run.folder), hashes),
        "run_file": without_secrets(settings).model_dump_json(indent=2),
    }


def _collect_images(
    client: Client, run: str, open_run_store: Callable[[], BlobStore], hashes: Iterable[str]
) -> dict[str, str]:
    """Data addresses of the images by sha256, without those that are missing or too large for the budget."""
    images: dict[str, str] = {}
    left = MAX_IMAGE_BYTES
    for sha256 in dict.fromkeys(hashes):
        row = read_image_row(client, run, sha256)
        if row is None or row["media_type"] not in IMAGE_TYPES:
            continue
        try:
            data = image_bytes(row, sha256, open_run_store)
        except BlobError:
            continue
        if len(data) <= left:
            left -= len(data)
            images[sha256] = f"data:{row['media_type']};base64,{base64.b64encode(data).decode()}"
    return images
