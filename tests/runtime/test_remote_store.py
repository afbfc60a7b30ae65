"""A store behind a network: what it fetched is kept in small numbers, and its outages are not missing files."""

import fcntl
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tristream.runtime import download_cache
from tristream.runtime.errors import StoppedError
from tristream.runtime.retry import retry
from tristream.runtime.store import BlobError, BlobStore, StoreUnavailableError
from tristream.wire.events import Image

FETCH_AND_WAIT = """
import sys
from tristream.runtime.store import BlobStore
store = BlobStore(sys.argv[1])
print(store.fetch(sys.argv[2], sys.argv[3]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return download_cache.cache_folder()


class FailingServer(ThreadingHTTPServer):
    """Serves a folder, and refuses the next requests."""

    num_refusals = 0
    num_requests = 0


class _Handler(SimpleHTTPRequestHandler):
    server: FailingServer

    def send_head(self) -> Any:
        self.server.num_requests += 1
        if self.server.num_refusals > 0:
            self.server.num_refusals -= 1
            self.send_error(503)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name is given
        pass


@contextmanager
def serving(folder: Path) -> Iterator[FailingServer]:
    server = FailingServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def address_of(server: FailingServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def put_weights(store: BlobStore, folder: Path, version: int) -> tuple[str, str]:
    """Address and checksum of some weights."""
    content = f"weights {version}".encode()
    local = folder / "weights-here"
    local.write_bytes(content)
    return store.write_file(f"weights/{version}/model.safetensors", local), hashlib.sha256(content).hexdigest()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_remote_store_is_downloaded_and_verified(tmp_path: Path) -> None:
    store = BlobStore(f"memory://{tmp_path.name}")
    uri, digest = put_weights(store, tmp_path, 1)
    assert [store.fetch(uri, digest).read_bytes() for _ in range(2)] == [b"weights 1"] * 2
    with pytest.raises(BlobError, match="sha256"):
        store.fetch(uri, "0" * 64)
    with pytest.raises(BlobError, match="missing"):
        store.fetch(f"{uri}.absent", "1" * 64)
    with pytest.raises(BlobError, match="is none"):
        store.fetch(uri, "../../elsewhere")


def test_few_fetched_files_are_kept(tmp_path: Path, cache: Path) -> None:
    store = BlobStore(f"memory://{tmp_path.name}")
    digests = []
    for version in range(1, 8):
        uri, digest = put_weights(store, tmp_path, version)
        digests.append(digest)
        path = store.fetch(uri, digest)
        assert path.read_bytes() == f"weights {version}".encode()
        assert len(names_in(cache)) <= 3
    assert names_in(cache) == set(digests[-3:])


def test_what_a_dead_process_left_is_removed_and_what_another_one_uses_is_kept(tmp_path: Path, cache: Path) -> None:
    with serving(tmp_path / "store") as server:
        writer, store = BlobStore(str(tmp_path / "store")), BlobStore(address_of(server))
        uris = [put_weights(writer, tmp_path, version) for version in range(6)]
        remote = [(uri.replace(writer.uri, store.uri), digest) for uri, digest in uris]
        command = [sys.executable, "-c", FETCH_AND_WAIT, store.uri, *remote[0]]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            in_use = Path(other.stdout.readline().strip())
            assert in_use == cache / uris[0][1]
            (cache / "half.1234.tmp").write_bytes(b"of a process that died")
            with (cache / "half.5678.tmp").open("wb") as downloading:
                fcntl.flock(downloading, fcntl.LOCK_SH)
                for uri, digest in remote[1:5]:
                    store.fetch(uri, digest)
                assert in_use.read_bytes() == b"weights 0"
                assert names_in(cache) == {uris[0][1], uris[3][1], uris[4][1], "half.5678.tmp"}
            other.kill()
        store.fetch(*remote[5])
        assert names_in(cache) == {digest for _, digest in uris[3:]}


def test_a_fetched_file_that_is_damaged_is_fetched_anew(tmp_path: Path) -> None:
    store = BlobStore(f"memory://{tmp_path.name}")
    uri, digest = put_weights(store, tmp_path, 1)
    store.fetch(uri, digest).write_bytes(b"torn")
    assert BlobStore(store.uri).fetch(uri, digest).read_bytes() == b"weights 1"


def test_a_server_that_answers_503_is_waited_for_and_is_no_missing_file(tmp_path: Path) -> None:
    writer = BlobStore(str(tmp_path / "store"), inline_limit_bytes=0)
    image = writer.put_image(b"pixels", "image/png")
    uri, digest = put_weights(writer, tmp_path, 1)
    with serving(tmp_path / "store") as server:
        store = BlobStore(address_of(server))
        remote_image = Image(
            media_type=image.media_type,
            sha256=image.sha256,
            size_bytes=image.size_bytes,
            uri=image.uri.replace(writer.uri, store.uri),
        )
        remote_uri, words, stop = uri.replace(writer.uri, store.uri), list[str](), threading.Event()
        for work, expected in (
            (lambda: store.read_image(remote_image), b"pixels"),
            (lambda: store.fetch(remote_uri, digest).read_bytes(), b"weights 1"),
        ):
            server.num_refusals = 2
            words.clear()
            assert retry(work, errors=(StoreUnavailableError,), say=words.append, stop=stop) == expected
            assert words
            assert all(f"the store {store.uri} fails at " in line and "503" in line for line in words)
        with pytest.raises(BlobError, match="missing"):
            store.fetch(f"{remote_uri}.absent", "1" * 64)
        server.num_refusals = 10**6
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(StoppedError):
            retry(lambda: store.read_image(remote_image), errors=(StoreUnavailableError,), say=words.append, stop=stop)
    with pytest.raises(StoreUnavailableError):  # nobody listens any more
        store.read_image(remote_image)
    with pytest.raises(StoreUnavailableError):
        store.fetch(remote_uri, "1" * 64)


def test_a_remote_image_larger_than_allowed_is_not_read(tmp_path: Path) -> None:
    writer = BlobStore(str(tmp_path / "store"), inline_limit_bytes=0)
    image = writer.put_image(b"x" * 1000, "image/png")
    with serving(tmp_path / "store") as server:
        store = BlobStore(address_of(server), max_image_bytes=999)
        remote = Image(media_type="", sha256=image.sha256, size_bytes=1, uri=f"{store.uri}/images/{image.sha256}")
        with pytest.raises(BlobError, match="1000 bytes, and"):
            store.read_image(remote)


def test_errors_that_are_not_asked_for_are_not_waited_for() -> None:
    def work() -> None:
        raise BlobError("gone")

    with pytest.raises(BlobError):
        retry(work, errors=(StoreUnavailableError,), say=print, stop=threading.Event())


def test_an_image_of_a_remote_store_is_written_whole(tmp_path: Path) -> None:
    store = BlobStore(f"memory://{tmp_path.name}", inline_limit_bytes=0)
    image = store.put_image(b"pixels", "image/png")
    assert fsspec.filesystem("memory").cat_file(image.uri) == b"pixels"
