"""The empty file ``IP:PORT`` by whose name V-Triune's trainer finds a reward server on a shared disk."""

import secrets
import socket
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tristream.runtime.errors import UserError

JOB_ID_LETTERS = string.ascii_lowercase + string.digits
WILDCARDS = ("", "0.0.0.0", "::")
ELSEWHERE = ("192.0.2.1", 9)
"""An address beyond this network that nobody has; no packet is sent to it."""


def new_job_id() -> str:
    """An id of V-Triune's form, such as ``j-4kd0a8vq2x``."""
    return f"j-{''.join(secrets.choice(JOB_ID_LETTERS) for _ in range(10))}"


@contextmanager
def address_file(folder: Path, job_id: str, host: str, port: int) -> Iterator[Path]:
    """Keep ``FOLDER/JOB_ID/IP:PORT`` while the block runs.

    Raises:
        UserError: it cannot be written, or the job id is no name of a folder.
    """
    if not job_id or job_id in (".", "..") or set(job_id) & set("/|\0"):
        raise UserError(f"'{job_id}' cannot name a folder", where="--job-id", remedy="use letters, digits and -")
    path = folder / job_id / f"{reachable_address(host)}:{port}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror})", where=str(path), remedy="give another folder"
        ) from None
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        try:
            path.parent.rmdir()
        except OSError:
            pass  # the address of another server is in it


def reachable_address(host: str) -> str:
    """The address at which others reach a server that listens on ``host``."""
    if host not in WILDCARDS:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
            address: str = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
    return address
