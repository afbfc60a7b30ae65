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
from urllib.parse import parse_qsl, urlsplit

from tristream.config.parts import MonitorSettings
from tristream.monitoring.page.answer_cache import AnswerCache, to_json
from tristream.monitoring.page.assets_of_page import MEDIA_TYPES, PAGE_SCRIPTS, PLOTLY, STYLES, page_html, read_asset
from tristream.monitoring.queries.curves import read_curves, read_layers
from tristream.monitoring.queries.gallery import read_image_row, read_newest_rollouts
from tristream.monitoring.queries.overview import describe_run, read_overview
from tristream.monitoring.queries.parts import read_parts
from tristream.monitoring.queries.sources import read_sources
from tristream.runtime.store import BlobError, BlobStore, open_store
from tristream.wire.events import Image

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
MAX_ROLLOUTS = 100
FOREVER = "public, max-age=31536000, immutable"


class RefusalError(Exception):
    """A request that gets an error: its status and one line for people."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a path answers."""

    body: bytes
    media_type: str = "application/json"
    cache_control: str = "no-store"


class Routes:
    """The paths of one run's page."""

    def __init__(self, settings: MonitorSettings, answers: AnswerCache) -> None:
        self._settings = settings
        self._answers = answers
        self._run = settings.run.id
        self._open_store = partial(open_store, settings.store, settings.run.folder)
        self._routes: dict[str, Callable[[Mapping[str, str]], Response]] = {
            "/": self._page,
            "/healthz": lambda _query: Response(body=to_json({"ok": True})),
            "/api/overview": self._overview,
            "/api/curves": self._curves,
            "/api/layers": self._layers,
            "/api/rollouts": self._rollouts,
            "/api/sources": self._sources,
            "/api/status": self._status,
        }

    def respond(self, target: str) -> Response:
        """Answer a request target such as ``/api/rollouts?limit=8``.

        Raises:
            RefusalError: the path is unknown, or a parameter is.
        """
        parts = urlsplit(target)
        if parts.path.startswith("/assets/"):
            return _asset(parts.path.removeprefix("/assets/"))
        if parts.path.startswith("/api/images/"):
            return self._image(parts.path.removeprefix("/api/images/"))
        if parts.path not in self._routes:
            raise RefusalError(HTTPStatus.NOT_FOUND, "no such page")
        return self._routes[parts.path](_parse_query(parts.query))

    def _page(self, query: Mapping[str, str]) -> Response:
        _refuse_others(query, ())
        return Response(body=page_html(self._run).encode(), media_type="text/html; charset=utf-8")

    def _overview(self, query: Mapping[str, str]) -> Response:
        _refuse_others(query, ())
        settings = describe_run(self._settings)
        return Response(
            body=self._answers.get_json(
                "overview", lambda client: read_overview(client, self._run) | {"settings": settings}
            )
        )

    def _curves(self, query: Mapping[str, str]) -> Response:
        _refuse_others(query, ())
        return Response(body=self._answers.get_json("curves", lambda client: read_curves(client, self._run)))

    def _layers(self, query: Mapping[str, str]) -> Response:
        _refuse_others(query, ())
        return Response(body=self._answers.get_json("layers", lambda client: read_layers(client, self._run)))

    def _rollouts(self, query: Mapping[str, str]) -> Response:
        _refuse_others(query, ("source", "limit"))
        source, limit = query.get("source", ""), _parse_limit(query.get("limit", "24"))
        names = [item.name for item in self._settings.sources]
        if source and source not in names:
            raise RefusalError(HTTPStatus.BAD_REQUEST, f"source must be empty or one of {', '.join(names)}")
        body = self._answers.get_json(
            f"rollouts {limit} {source}", lambda client: read_newest_rollouts(client, self._run, source, limit)
        )
        return Response(body=body)

    def _status(self, query: Mapping[str, str]) -> Response:
        _refuse_others(query, ())
        return Response(body=self._answers.get_json("status", lambda client: {"parts": read_parts(client, self._run)}))

    def _sources(self, query: Mapping[str, str]) -> Response:
        _refuse_others(query, ())
        return Response(body=self._answers.get_json("sources", lambda client: read_sources(client, self._settings)))

    def _image(self, sha256: str) -> Response:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise RefusalError(HTTPStatus.BAD_REQUEST, "an image is named by the 64 hex digits of its sha256")
        row = self._answers.ask(lambda client: read_image_row(client, self._run, sha256))
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


def _parse_query(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) < len(pairs):
        raise RefusalError(HTTPStatus.BAD_REQUEST, "a parameter is given twice")
    return dict(pairs)


def _refuse_others(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    unknown = sorted(set(query) - set(known))
    if unknown:
        raise RefusalError(
            HTTPStatus.BAD_REQUEST, f"unknown parameter {unknown[0]!r}; known: {', '.join(known) or 'none'}"
        )


def _parse_limit(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,3}", text) and 1 <= int(text) <= MAX_ROLLOUTS:
        return int(text)
    raise RefusalError(HTTPStatus.BAD_REQUEST, f"limit must be a whole number from 1 to {MAX_ROLLOUTS}")
