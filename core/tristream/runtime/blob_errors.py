"""What can be wrong with a blob, and what with the store that should have it."""

from collections.abc import Iterator
from contextlib import contextmanager

from tristream.runtime.errors import TryAgainError

NOT_FOUND_STATUSES = (404, 410)
BUGS = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError)
"""Not a failure of the store; everything else that a file system of fsspec raises is, and many are no OSError."""


class BlobError(Exception):
    """A blob is missing, damaged, too large, or none of this run's store: asking again will not help."""


class StoreUnavailableError(TryAgainError):
    """The store does not answer or its disk is full: asking again may help."""


@contextmanager
def asking(store: str, blob: str, *, writes: bool = False) -> Iterator[None]:
    """Name what a store says to a request for a blob, or to one to write it.

    Raises:
        BlobError: it does not have the blob that is asked for.
        StoreUnavailableError: it failed in any other way.
    """
    try:
        yield
    except (BlobError, StoreUnavailableError, *BUGS):
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if not writes and _is_missing(error):
            raise BlobError(f"{blob} is missing") from error
        raise StoreUnavailableError(_explain(store, blob, error.__cause__ or error)) from error
    except Exception as error:
        raise StoreUnavailableError(_explain(store, blob, error)) from error


def _is_missing(error: OSError) -> bool:
    """Whether a blob is not there; some file systems also say so of one that they could not ask for."""
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or _status(cause) in NOT_FOUND_STATUSES


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp or of botocore carries."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    found = metadata.get("HTTPStatusCode")
    return found if isinstance(found, int) else None


def _explain(store: str, blob: str, error: BaseException) -> str:
    words = str(error) or type(error).__name__
    return f"the store {store} fails at {blob.removeprefix(store).lstrip('/')}: {words.splitlines()[0]}"
