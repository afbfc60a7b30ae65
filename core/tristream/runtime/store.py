"""The blob store: images too large for an event, and weights, on any fsspec file system.

Images are content-addressed (claim check), so that the rollouts of a group share one copy.
"""

import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

import fsspec

from tristream.config.store import StoreSection
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Image


class BlobError(Exception):
    """A blob is missing or does not have the checksum it should have."""


INLINE_LIMIT_BYTES = 65536
"""Images up to this size travel in the event, unless whoever writes them says otherwise."""


class BlobStore:
    """Files under one fsspec address, such as a folder or ``s3://bucket/run``."""

    def __init__(self, uri: str, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> None:
        self.uri = uri.rstrip("/")
        self._inline_limit_bytes = inline_limit_bytes
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.uri)
        except (ValueError, ImportError) as error:
            raise UserError(
                f"'{uri}' cannot be opened ({error})", where="[store] uri", remedy="give a folder or an fsspec address"
            ) from None
        self._cache = Path(tempfile.gettempdir()) / "tristream-blobs"

    def put_image(self, data: bytes, media_type: str) -> Image:
        """Keep an image inline if it is small, else store it under its sha256."""
        digest = hashlib.sha256(data).hexdigest()
        if len(data) <= self._inline_limit_bytes:
            return Image(media_type=media_type, sha256=digest, size_bytes=len(data), data=data)
        relative = f"images/{digest}"
        if not self._files.exists(f"{self._root}/{relative}"):
            self._write(relative, data)
        return Image(media_type=media_type, sha256=digest, size_bytes=len(data), uri=f"{self.uri}/{relative}")

    def read_image(self, image: Image) -> bytes:
        """The encoded bytes of an image.

        Raises:
            BlobError: it is missing or has another checksum.
        """
        if image.data:
            data = image.data
        else:
            try:
                data = self._files.cat_file(self._path(image.uri))
            except FileNotFoundError:
                raise BlobError(f"image {image.uri} is missing") from None
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise BlobError(f"image {image.uri or image.sha256} does not have its checksum")
        return bytes(data)

    def write_file(self, relative: str, local_path: Path) -> str:
        """Copy a local file to ``relative`` atomically and return its address."""
        target = f"{self._root}/{relative}"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self._is_local:
            temporary = Path(f"{target}.{uuid.uuid4().hex}.tmp")
            shutil.copyfile(local_path, temporary)
            temporary.replace(target)
            reach("store.renamed")
        else:
            self._files.put_file(str(local_path), target)
        return f"{self.uri}/{relative}"

    def fetch(self, uri: str, sha256: str) -> Path:
        """A local path of the file at ``uri``, downloaded if it is remote.

        Raises:
            BlobError: it is missing or has another checksum.
        """
        path = Path(self._path(uri))
        if not self._is_local:
            self._cache.mkdir(parents=True, exist_ok=True)
            path = self._cache / sha256
            if not path.exists():
                self._download(uri, path)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise BlobError(f"{uri} is missing") from None
        if digest != sha256:
            raise BlobError(f"{uri} has sha256 {digest[:12]}..., wanted {sha256[:12]}...")
        return path

    def delete(self, uri: str) -> None:
        """Delete a file; one that is already gone is fine."""
        try:
            self._files.rm_file(self._path(uri))
        except FileNotFoundError:
            pass

    @property
    def _is_local(self) -> bool:
        return "file" in (self._files.protocol if isinstance(self._files.protocol, tuple) else (self._files.protocol,))

    def _path(self, uri: str) -> str:
        return str(fsspec.core.strip_protocol(uri))

    def _write(self, relative: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.write_file(relative, Path(file.name))

    def _download(self, uri: str, path: Path) -> None:
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        try:
            self._files.get_file(self._path(uri), str(temporary))
        except FileNotFoundError:
            raise BlobError(f"{uri} is missing") from None
        temporary.replace(path)
        reach("store.downloaded")


STORES: Mapping[str, type[BlobStore]] = {"files": BlobStore}
"""Stores by the ``type`` that the run file names."""


def open_store(section: StoreSection, folder: RunFolder, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> BlobStore:
    """The store of the run in a folder.

    Raises:
        UserError: its address cannot be opened.
    """
    return STORES[section.type](section.address(folder), inline_limit_bytes=inline_limit_bytes)
