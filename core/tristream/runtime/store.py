"""The blob store: images too large for an event, and weights, on any fsspec file system.

Images are content-addressed (claim check), so that the rollouts of a group share one copy. An address comes with an
event, and an event may come from anybody: so only what lies below the run's own store is read.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import fsspec

from tristream.config.store import FilesStoreSection, StoreSection
from tristream.runtime.blob_errors import BlobError, StoreUnavailableError, asking
from tristream.runtime.download_cache import DownloadCache, cache_folder, file_checksum
from tristream.runtime.durable_files import copy_to, remove_with_leftovers, write_durably
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Image

__all__ = ["INLINE_LIMIT_BYTES", "BlobError", "BlobStore", "StoreUnavailableError", "open_store"]

INLINE_LIMIT_BYTES = 65536
"""Images up to this size travel in the event, unless whoever writes them says otherwise."""
MAX_IMAGE_BYTES: int = FilesStoreSection.model_fields["max_image_bytes"].default
MOST_KNOWN_IMAGES = 65536
"""So many images are known to be whole in the store; others are looked at before they are taken for it."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RELATIVE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""Names of blobs: no name begins with a point, so that none leads upwards."""


class BlobStore:
    """Files under one fsspec address, such as a folder or ``s3://bucket/run``.

    Every method raises ``StoreUnavailableError`` if the store fails in a way that may pass: it does not answer, answers
    with an error, its disk is full, or it lets nobody in. ``tristream.runtime.retry`` waits for it.
    """

    def __init__(
        self, uri: str, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES, max_image_bytes: int = MAX_IMAGE_BYTES
    ) -> None:
        self.uri = uri.rstrip("/")
        self._inline_limit_bytes = inline_limit_bytes
        self._max_image_bytes = max_image_bytes
        try:
            self._files, root = fsspec.core.url_to_fs(self.uri)
        except (ValueError, ImportError) as error:
            raise UserError(
                f"'{uri}' cannot be opened ({error})", where="[store] uri", remedy="give a folder or an fsspec address"
            ) from None
        self._root = str(root).rstrip("/")
        self._cache = DownloadCache(cache_folder())
        self._known_images: OrderedDict[str, None] = OrderedDict()

    def put_image(self, data: bytes, media_type: str) -> Image:
        """Keep an image inline if it is small, else store it under its sha256, anew if it is not whole there."""
        digest = hashlib.sha256(data).hexdigest()
        if len(data) <= self._inline_limit_bytes:
            return Image(media_type=media_type, sha256=digest, size_bytes=len(data), data=data)
        image = Image(media_type=media_type, sha256=digest, size_bytes=len(data), uri=f"{self.uri}/images/{digest}")
        if digest not in self._known_images:
            if not self._has_whole(image):
                self._write(f"images/{digest}", data)
            self._known_images[digest] = None
            if len(self._known_images) > MOST_KNOWN_IMAGES:
                self._known_images.popitem(last=False)
        return image

    def read_image(self, image: Image) -> bytes:
        """The encoded bytes of an image.

        Raises:
            BlobError: it is missing, has another checksum, is too large, or is none of this store.
        """
        data = image.data or self._read(image.uri)
        if len(data) > self._max_image_bytes:
            raise BlobError(self._too_large(image.uri or image.sha256, len(data)))
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise BlobError(f"image {image.uri or image.sha256} does not have its checksum")
        return data

    def write_file(self, relative: str, local_path: Path) -> str:
        """Copy a local file to ``relative`` atomically and return its address."""
        uri = f"{self.uri}/{relative}"
        target = self._path(uri)
        with asking(self.uri, uri, writes=True):
            if self._is_local:
                write_durably(Path(target), copy_to(local_path))
            else:
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(local_path), target)
                reach("store.renamed")
        return uri

    def fetch(self, uri: str, sha256: str) -> Path:
        """A local path of the file at ``uri``, downloaded if it is remote; it stays until another one is fetched.

        Raises:
            BlobError: it is missing, has another checksum, or is none of this store.
        """
        path = self._path(uri)
        if not _SHA256.fullmatch(sha256):
            raise BlobError(f"{uri} should have a checksum that is none: {sha256[:70]!r}")
        with asking(self.uri, uri):
            if not self._is_local:
                try:
                    return self._cache.get(sha256, lambda target: self._files.get_file(path, str(target)))
                except BlobError as error:
                    raise BlobError(f"{uri}: {error}") from None
            with Path(path).open("rb") as file:
                digest = file_checksum(file)
        if digest != sha256:
            raise BlobError(f"{uri} has sha256 {digest[:12]}..., wanted {sha256[:12]}...")
        return Path(path)

    def download(self, uri: str, target: Path) -> None:
        """Copy the file at ``uri`` to a local path.

        Raises:
            BlobError: it is missing, or is none of this store.
        """
        path = self._path(uri)
        with asking(self.uri, uri):
            self._files.get_file(path, str(target))

    def find(self, folder: str) -> list[str]:
        """Addresses of the files in a folder of the store and below it; none if there is no such folder."""
        path = self._path(f"{self.uri}/{folder}")
        with asking(self.uri, folder):
            self._files.invalidate_cache(path)
            return [f"{self.uri}/{found.removeprefix(f'{self._root}/')}" for found in self._files.find(path)]

    def delete(self, uri: str) -> None:
        """Delete a file; one that is already gone is fine.

        Raises:
            BlobError: it is none of this store.
        """
        path = self._path(uri)
        with asking(self.uri, uri):
            try:
                if self._is_local:
                    remove_with_leftovers(Path(path))
                else:
                    self._files.rm_file(path)
            except FileNotFoundError:
                pass

    @property
    def _is_local(self) -> bool:
        return "file" in (self._files.protocol if isinstance(self._files.protocol, tuple) else (self._files.protocol,))

    def _path(self, uri: str) -> str:
        """Where a blob is in the file system.

        Raises:
            BlobError: it is none of this store.
        """
        relative = uri.removeprefix(f"{self.uri}/")
        path = f"{self._root}/{relative}"
        if relative == uri or not _RELATIVE.fullmatch(relative) or (self._is_local and self._leads_out(path)):
            raise BlobError(f"{uri} is not in the run's store {self.uri}")
        return path

    def _leads_out(self, path: str) -> bool:
        """Whether links on the way to a local path lead out of the store."""
        return not Path(path).resolve().is_relative_to(Path(self._root).resolve())

    def _read(self, uri: str) -> bytes:
        path = self._path(uri)
        with asking(self.uri, uri):
            info = self._files.info(path)
            if info["type"] != "file" or info["size"] is None:
                raise BlobError(f"{uri} is no file of a known size")
            if info["size"] > self._max_image_bytes:
                raise BlobError(self._too_large(uri, info["size"]))
            return bytes(self._files.cat_file(path))

    def _too_large(self, name: str, size_bytes: int) -> str:
        return f"image {name} has {size_bytes} bytes, and store.max_image_bytes is {self._max_image_bytes}"

    def _has_whole(self, image: Image) -> bool:
        """Whether the store has an image as it should be; one that a crash tore has not its size or its checksum."""
        path = self._path(image.uri)
        try:
            with asking(self.uri, image.uri):
                if self._files.info(path)["size"] != image.size_bytes:
                    return False
                return hashlib.sha256(self._files.cat_file(path)).hexdigest() == image.sha256
        except BlobError:
            return False

    def _write(self, relative: str, data: bytes) -> None:
        uri = f"{self.uri}/{relative}"
        target = self._path(uri)
        with asking(self.uri, uri, writes=True):
            if self._is_local:
                write_durably(Path(target), lambda path: path.write_bytes(data))
            else:
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(target, data)


STORES: Mapping[str, type[BlobStore]] = {"files": BlobStore}
"""Stores by the ``type`` that the run file names."""


def open_store(section: StoreSection, folder: RunFolder, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> BlobStore:
    """The store of the run in a folder.

    Raises:
        UserError: its address cannot be opened.
    """
    return STORES[section.type](
        section.address(folder), inline_limit_bytes=inline_limit_bytes, max_image_bytes=section.max_image_bytes
    )
