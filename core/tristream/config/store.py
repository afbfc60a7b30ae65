"""``[store]``: where weights and large images go."""

from typing import Literal

from pydantic import Field

from tristream.config.base import Section
from tristream.runtime.run_folder import RunFolder


class FilesStoreSection(Section):
    """Files on any fsspec file system."""

    type: Literal["files"] = "files"
    """Which store."""
    uri: str = ""
    """An fsspec address such as ``s3://bucket/run``; empty means ``output/id/store``."""

    max_image_bytes: int = Field(default=64 * 2**20, ge=1)
    """Larger images are not read."""

    def address(self, folder: RunFolder) -> str:
        """The address, absolute, of the store of the run in ``folder``."""
        return self.uri or str(folder.store.absolute())


StoreSection = FilesStoreSection
"""A second store makes this a union that is told apart by ``type``."""
