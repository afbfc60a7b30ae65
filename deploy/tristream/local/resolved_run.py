"""``run.json``: the resolved run, for its parts and the next start; readable by its owner alone, without secrets."""

import os

from tristream.config.run_file import RunFile
from tristream.config.secrets import without_secrets

OWNER_ALONE = 0o600


def write_run_file(settings: RunFile) -> None:
    """Write the resolved run, or replace it as a whole; passwords are left out (``config.secrets``).

    Raises:
        OSError: the folder cannot be written.
    """
    path = settings.run.folder.run_file
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ALONE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(without_secrets(settings).model_dump_json(indent=2))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
