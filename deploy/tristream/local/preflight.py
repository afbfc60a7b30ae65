"""What must hold before anything is started: data, verifiers, model and folder are as the run file says."""

import json
from pathlib import Path

from tristream.producers.rows import SampleTable
from tristream.verifiers.registry import ALIASES, VERIFIERS
from tristream.wire.errors import UserError
from tristream.wire.runfile import RunFile


def check_inputs(settings: RunFile) -> None:
    """Check what the run reads.

    Raises:
        UserError: a file is missing or malformed, a row lacks its reward terms, a verifier does not exist.
    """
    if not (settings.model.path / "config.json").is_file():
        raise UserError(
            f"{settings.model.path} has no config.json",
            where="[model] path",
            remedy="give the folder of a Hugging Face checkpoint",
        )
    for source in settings.sources:
        for path in (source.train, source.eval):
            if path is not None:
                SampleTable.load(path, source.name).require_known_verifiers({*VERIFIERS, *ALIASES})


def prepare_folder(settings: RunFile) -> Path:
    """Make the run's folder and write the resolved run; returns the path of ``run.json``.

    Raises:
        UserError: the folder belongs to another run, or the run is finished, or the folder cannot be written.
    """
    folder = settings.run.folder
    path = folder / "run.json"
    if (folder / "summary.json").exists():
        raise UserError(
            "this run is finished", where=str(folder), remedy="give another --set run.id=NAME, or delete the folder"
        )
    if path.exists():
        _require_same_run(path, settings)
    try:
        for name in ("logs", "status"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for stale in (folder / "status").glob("*.json"):
            stale.unlink()
        path.write_text(settings.model_dump_json(indent=2), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror})", where=str(folder), remedy="free space or change run.output"
        ) from None
    return path


def _require_same_run(path: Path, settings: RunFile) -> None:
    """A resumed run keeps what its checkpoints and its prompts depend on."""
    before = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(settings.model_dump_json())
    fixed = ("run.seed", "run.steps", "model.path", "rollout.groups_per_step", "rollout.group_size")
    for key in fixed:
        section, name = key.split(".")
        if before[section][name] != now[section][name]:
            raise UserError(
                f"{key} was {before[section][name]} and is {now[section][name]} now",
                where=str(path.parent),
                remedy="resume with the same value, or give another --set run.id=NAME",
            )
