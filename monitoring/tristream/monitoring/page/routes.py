"""What the page answers to each path: no HTTP here, only paths, parameters and bytes.

Model output is untrusted: it leaves as JSON, or as an image of a known kind, and never as HTML.
"""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tristream.config.parts import MonitorSettings
from tristream.monitoring.page import parameters
from tristream.monitoring.page.answer_cache import AnswerCache, Lane, to_json
from tristream.monitoring.page.assets_of_page import MEDIA_TYPES, PAGE_SCRIPTS, PLOTLY, STYLES, page_html, read_asset
from tristream.monitoring.page.parameters import Query, RefusalError, refuse_others
from tristream.monitoring.queries.curves import MAX_POINTS, read_curves, read_layers
from tristream.monitoring.queries.gallery import read_image_row
from tristream.monitoring.queries.overview import (
    describe_run,
    read_group_counts,
    read_head,
    read_verifiers,
)
from tristream.monitoring.queries.parts import read_parts
from tristream.monitoring.queries.rollout_details import read_rollout
from tristream.monitoring.queries.rollout_search import search_rollouts
from tristream.monitoring.queries.runs import is_known, read_held_out, read_runs
from tristream.monitoring.queries.sources import read_sources
from tristream.monitoring.queries.why.explaining import explain
from tristream.monitoring.store.client import Client
from tristream.runtime.errors import UserError
from tristream.runtime.store import BlobError, BlobStore, open_store
from tristream.wire.events import Image

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
ASKED_BY_PROGRAMS = frozenset({"/healthz", "/api/sources", "/api/evaluation"})
"""Asked again and again by probes and by ``tristream up``, whether somebody looks or not."""
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a path answers."""

    body: bytes
    media_type: str = "application/json"
    cache_control: str = "no-store"


class Routes:
    """The paths of one run's page.

    Args:
        settings: the run.
        answers: asks the database.
        on_look: called whenever somebody looks.
    """

    def __init__(
        self, settings: MonitorSettings, answers: AnswerCache, on_look: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._on_look = on_look
        self._answers = answers
        self._run = settings.run.id
        self._open_store = partial(open_store, settings.store, settings.run.folder)
        described = {"settings": describe_run(settings)}
        self._routes: dict[str, Callable[[Query], Response]] = {
            "/": self._page,
            "/healthz": lambda _query: Response(body=to_json({"ok": True})),
            "/api/head": self._plain("head", lambda client: read_head(client, self._run) | described),
            "/api/status": self._plain("status", lambda client: {"parts": read_parts(client, self._run)}),
            "/api/groups": self._plain("groups", lambda client: read_group_counts(client, self._run), Lane.CURVES),
            "/api/sources": self._plain("sources", lambda client: read_sources(client, settings), Lane.CURVES),
            "/api/verifiers": self._plain("verifiers", lambda client: read_verifiers(client, self._run), Lane.CURVES),
            "/api/layers": self._plain("layers", lambda client: read_layers(client, self._run), Lane.CURVES),
            "/api/runs": self._plain("runs", read_runs, Lane.ROLLOUTS),
            "/api/evaluation": self._evaluation,
            "/api/curves": self._curves,
            "/api/rollouts": self._rollouts,
            "/api/rollout": self._rollout,
            "/api/why": self._why,
        }

    def respond(self, target: str) -> Response:
        """Answer a request target such as ``/api/rollouts?limit=8``.

        Raises:
            RefusalError: the path is unknown, or a parameter is.
        """
        parts = urlsplit(target)
        if parts.path not in ASKED_BY_PROGRAMS:
            self._on_look()
        if parts.path.startswith("/assets/"):
            return _asset(parts.path.removeprefix("/assets/"))
        if parts.path.startswith("/api/images/"):
            return self._image(parts.path.removeprefix("/api/images/"))
        if parts.path not in self._routes:
            raise RefusalError(HTTPStatus.NOT_FOUND, "no such page")
        return self._routes[parts.path](parameters.parse_query(parts.query))

    def _plain(self, key: str, compute: Callable[[Client], Any], lane: Lane = Lane.HEAD) -> Callable[[Query], Response]:
        """A path without parameters."""

        def answer(query: Query) -> Response:
            refuse_others(query, ())
            return Response(body=self._answers.get_json(key, compute, lane))

        return answer

    def _page(self, query: Query) -> Response:
        refuse_others(query, ())
        return Response(body=page_html(self._run).encode(), media_type="text/html; charset=utf-8")

    def _evaluation(self, query: Query) -> Response:
        refuse_others(query, ("run",))
        run = self._run_of(query)
        return Response(
            body=self._answers.get_json(f"evaluation {run}", lambda client: read_held_out(client, run), Lane.CURVES)
        )

    def _curves(self, query: Query) -> Response:
        refuse_others(query, ("run", "parts", "first", "last", "points", "newest"))
        parts, (first, last) = parameters.parse_parts(query), parameters.parse_steps(query, "first", "last")
        points = parameters.whole_number(query, "points", MAX_POINTS, 2, parameters.MAX_POINTS)
        newest = parameters.whole_number(query, "newest", 0, 0, parameters.MAX_WHOLE)  # answers before it are too old
        run = self._run_of(query)
        body = self._answers.get_json(
            f"curves {parts} {first} {last} {points} {newest} {run}",
            lambda client: read_curves(client, run, points, parts=parts, first=first, last=last),
            Lane.CURVES,
        )
        return Response(body=body)

    def _run_of(self, query: Query) -> str:
        """The run asked for, which is this one or another of the same database."""
        run = query.get("run", "") or self._run
        if run != self._run and not self._answers.ask(lambda client: is_known(client, run), Lane.ROLLOUTS):
            raise RefusalError(HTTPStatus.NOT_FOUND, "no such run in this database")
        return run

    def _rollouts(self, query: Query) -> Response:
        search = parameters.parse_search(query, [item.name for item in self._settings.sources])
        limit, cursor = parameters.parse_page(query)
        body = self._answers.get_json(
            f"rollouts {limit} {cursor} {search}",
            lambda client: search_rollouts(client, self._run, search, limit=limit, cursor=cursor),
            Lane.ROLLOUTS,
        )
        return Response(body=body)

    def _rollout(self, query: Query) -> Response:
        key = parameters.parse_key(query)
        found = self._answers.ask(lambda client: read_rollout(client, self._run, key), Lane.ROLLOUTS)
        if found is None:
            raise RefusalError(HTTPStatus.NOT_FOUND, "no such rollout in this run")
        return Response(body=to_json(found))

    def _why(self, query: Query) -> Response:
        refuse_others(query, ("step", "source"))
        step = parameters.whole_number(query, "step", 0, 1, parameters.MAX_STEP)
        source = parameters.choice(query, "source", [item.name for item in self._settings.sources])
        place = str(self._settings.run.folder.path)
        try:
            body = self._answers.get_json(
                f"why {step} {source}",
                lambda client: explain(client, self._run, step, source, place=place).to_json(),
                Lane.ROLLOUTS,
            )
        except UserError as error:
            raise RefusalError(HTTPStatus.NOT_FOUND, str(error)) from None
        return Response(body=body)

    def _image(self, sha256: str) -> Response:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise RefusalError(HTTPStatus.BAD_REQUEST, "an image is named by the 64 hex digits of its sha256")
        row = self._answers.ask(lambda client: read_image_row(client, self._run, sha256), Lane.IMAGES)
        if row is None:
            raise RefusalError(HTTPStatus.NOT_FOUND, "no such image in this run")
        media_type = row["media_type"] if row["media_type"] in IMAGE_TYPES else "application/octet-stream"
        try:
            body = image_bytes(row, sha256, self._open_store)
        except BlobError as error:
            raise RefusalError(HTTPStatus.NOT_FOUND, str(error)) from None
        return Response(body=body, media_type=media_type, cache_control=FOREVER)


def image_bytes(row: Mapping[str, Any], sha256: str, open_run_store: Callable[[], BlobStore]) -> bytes:
    """The encoded bytes of an image of ``read_image_row``; those that are not in the row are in the run's store.

    Raises:
        BlobError: it lies in the store, and is missing there or has another checksum.
    """
    if row["data_base64"]:
        return base64.b64decode(row["data_base64"])
    image = Image(media_type=row["media_type"], sha256=sha256, size_bytes=0, uri=row["uri"])
    return open_run_store().read_image(image)


def _asset(name: str) -> Response:
    if name not in (PLOTLY, *PAGE_SCRIPTS, *STYLES):
        raise RefusalError(HTTPStatus.NOT_FOUND, "no such file")
    return Response(
        body=read_asset(name).encode(),
        media_type=MEDIA_TYPES[PurePosixPath(name).suffix],
        cache_control=FOREVER if name == PLOTLY else "no-cache",
    )
