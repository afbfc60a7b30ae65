"""The blob store keeps what it is given, notices what changed, and reads nothing that is not its own."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.config.store import FilesStoreSection
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.store import BlobError, BlobStore, StoreUnavailableError, open_store
from tristream.wire.events import Image

WRITE_ON_A_SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from tristream.runtime.store import BlobStore, StoreUnavailableError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
store = BlobStore(sys.argv[1])
for write in (
    lambda: store.put_image(bytes(200_000), "image/png"),
    lambda: store.write_file("weights/1/model.safetensors", Path(sys.argv[2])),
):
    try:
        write()
    except StoreUnavailableError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(store.read_image(store.put_image(bytes(200_000), "image/png")) == bytes(200_000))
"""


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@given(st.binary(min_size=1, max_size=300))
def test_an_image_comes_back_inline_or_by_reference(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = BlobStore(str(folder), inline_limit_bytes=100)
    image = store.put_image(data, "image/png")
    assert bool(image.uri) == (len(data) > 100)
    assert store.read_image(image) == data


def test_equal_images_are_stored_once(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path), inline_limit_bytes=0)
    assert store.put_image(b"x" * 10, "image/png") == store.put_image(b"x" * 10, "image/png")
    (path,) = (tmp_path / "images").iterdir()
    written_ns = path.stat().st_mtime_ns
    again = BlobStore(str(tmp_path), inline_limit_bytes=0).put_image(b"x" * 10, "image/png")
    assert (store.read_image(again), path.stat().st_mtime_ns) == (b"x" * 10, written_ns)


@pytest.mark.parametrize("torn", [b"", b"who", b"whale"], ids=["empty", "short", "other bytes"])
@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_an_image_that_a_crash_tore_is_written_again(tmp_path: Path, torn: bytes, scheme: str) -> None:
    uri = f"{scheme}{tmp_path}"
    image = BlobStore(uri, inline_limit_bytes=0).put_image(b"whole", "image/png")
    if scheme:
        import fsspec

        fsspec.filesystem("memory").pipe_file(image.uri, torn)
    else:
        Path(image.uri).write_bytes(torn)
    store = BlobStore(uri, inline_limit_bytes=0)
    with pytest.raises(BlobError, match="checksum"):
        store.read_image(image)
    assert store.read_image(store.put_image(b"whole", "image/png")) == b"whole"


def test_a_changed_or_missing_file_is_an_error(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path), inline_limit_bytes=0)
    image = store.put_image(b"whole", "image/png")
    path = store.fetch(image.uri, image.sha256)
    path.write_bytes(b"broken")
    with pytest.raises(BlobError, match="sha256"):
        store.fetch(image.uri, image.sha256)
    with pytest.raises(BlobError, match="checksum"):
        store.read_image(image)
    store.delete(image.uri)
    store.delete(image.uri)
    with pytest.raises(BlobError, match="missing"):
        store.fetch(image.uri, image.sha256)
    with pytest.raises(BlobError, match="missing"):
        store.read_image(image)


def test_a_file_of_a_local_store_is_read_where_it_is_and_leaves_nothing_when_it_goes(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path / "store"))
    local = tmp_path / "weights"
    for content in (b"first", b"second"):
        local.write_bytes(content)
        uri = store.write_file("weights/1/model.safetensors", local)
        path = store.fetch(uri, sha256_of(content))
        assert path.read_bytes() == content
    assert files_below(tmp_path / "store") == ["weights/1/model.safetensors"]
    path.with_name(f"{path.name}.0123.tmp").touch()  # by a process that died while it wrote
    store.delete(uri)
    assert list((tmp_path / "store").rglob("*")) == [tmp_path / "store" / "weights"]


def test_an_address_of_no_known_file_system_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        BlobStore("nosuch://bucket/run")


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "{store}/../secret",
        "{store}/images/../../secret",
        "{store}//etc/passwd",
        "{store}-2/secret",
        "{store}/images/.hidden",
        "{store}/images/%2e%2e/secret",
        "{store}/link-to-file",
        "{store}/link-to-folder/secret",
        "{store}",
        "{store}/",
        "http://169.254.169.254/latest",
        "memory://secret",
        "simplecache::file:///etc/passwd",
        "secret",
        "",
    ],
)
def test_only_what_lies_below_the_store_is_read_and_deleted(tmp_path: Path, uri: str) -> None:
    folder, secret = tmp_path / "store", b"secret"
    for place in (tmp_path / "secret", tmp_path / "store-2" / "secret", folder / "images" / ".hidden"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(secret)
    (folder / "link-to-file").symlink_to(tmp_path / "secret")
    (folder / "link-to-folder").symlink_to(tmp_path)
    store, uri = BlobStore(str(folder)), uri.format(store=folder)
    image = Image(media_type="image/png", sha256=sha256_of(secret), size_bytes=6, uri=uri)
    with pytest.raises(BlobError, match="is not in the run's store"):
        store.read_image(image)
    with pytest.raises(BlobError, match="is not in the run's store"):
        store.fetch(uri, image.sha256)
    with pytest.raises(BlobError, match="is not in the run's store"):
        store.delete(uri)
    assert (tmp_path / "secret").read_bytes() == secret


def test_a_store_behind_a_link_is_a_store(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    store = BlobStore(str(tmp_path / "link" / "store"), inline_limit_bytes=0)
    assert store.read_image(store.put_image(b"x", "image/png")) == b"x"


def test_an_image_larger_than_allowed_is_refused_by_its_size_and_not_read(tmp_path: Path) -> None:
    store = open_store(FilesStoreSection(max_image_bytes=1000), RunFolder(tmp_path), inline_limit_bytes=0)
    image = store.put_image(b"x" * 1000, "image/png")
    assert len(store.read_image(image)) == 1000
    os.truncate(image.uri, 2**40)  # a terabyte that would not fit into memory
    with pytest.raises(BlobError, match="has 1099511627776 bytes, and"):
        store.read_image(image)
    inline = Image(media_type="image/png", sha256=sha256_of(b"x" * 1001), size_bytes=1, data=b"x" * 1001)
    with pytest.raises(BlobError, match="1001 bytes"):
        store.read_image(inline)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")  # to read it would take for ever
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(BlobError):
            store.read_image(Image(media_type="image/png", sha256="0" * 64, size_bytes=1, uri=f"{tmp_path}/{name}"))


def test_a_full_disk_is_told_apart_and_what_was_begun_is_removed(tmp_path: Path) -> None:
    weights, folder = tmp_path / "weights", tmp_path / "store"
    weights.write_bytes(bytes(200_000))
    command = [sys.executable, "-c", WRITE_ON_A_SMALL_DISK, str(folder), str(weights)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    image, model, is_whole = done.stdout.splitlines()
    assert f"the store {folder} fails at images/" in image
    assert f"the store {folder} fails at weights/1/model.safetensors: [Errno 27] File too large" in model
    assert is_whole == "True"
    assert files_below(folder) == [f"images/{sha256_of(bytes(200_000))}"]


def test_a_place_that_cannot_be_written_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    store = BlobStore(str(tmp_path / "store"), inline_limit_bytes=0)
    with pytest.raises(StoreUnavailableError, match="fails at images/"):
        store.put_image(b"x", "image/png")
