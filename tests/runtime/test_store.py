"""The blob store keeps what it is given and notices what changed."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.runtime.errors import UserError
from tristream.runtime.store import BlobError, BlobStore


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
    assert len(list((tmp_path / "images").iterdir())) == 1


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


def test_a_remote_store_is_downloaded_and_verified(tmp_path: Path) -> None:
    store = BlobStore(f"memory://{tmp_path.name}")
    content = f"weights of {tmp_path}".encode()
    local = tmp_path / "weights"
    local.write_bytes(content)
    uri = store.write_file("weights/1/model.safetensors", local)
    digest = hashlib.sha256(content).hexdigest()
    assert [store.fetch(uri, digest).read_bytes() for _ in range(2)] == [content, content]
    with pytest.raises(BlobError, match="sha256"):
        store.fetch(uri, "0" * 64)
    with pytest.raises(BlobError, match="missing"):
        store.fetch(f"{uri}.absent", "1" * 64)


def test_a_file_of_a_local_store_is_read_where_it_is(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path / "store"))
    local = tmp_path / "weights"
    for content in (b"first", b"second"):
        local.write_bytes(content)
        uri = store.write_file("weights/1/model.safetensors", local)
        path = store.fetch(uri, hashlib.sha256(content).hexdigest())
        assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_an_address_of_no_known_file_system_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        BlobStore("nosuch://bucket/run")
