"""``tristream export``: the policy of a step as a folder that ``from_pretrained`` and vLLM load.

Weights are those of the store, where the newest versions and all evaluated ones stay, so also the best one. All else
is taken from the run's model folder: configuration, tokenizer, processors, chat templates.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.runtime.blob_errors import BlobError
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.safetensors_files import read_header, write_shards
from tristream.runtime.store import BlobStore, open_store
from tristream.runtime.weight_names import find_weights, read_weights_name

MAX_SHARD_BYTES = 5_000_000_000
ORIGIN = "tristream.json"
"""Says which run and step a folder was exported from; only a folder that has it is ever overwritten."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".index.json")
"""Ends of names of files in a model folder that are weights, or an index of them."""
KEPT_FOLDERS = ("additional_chat_templates",)
DTYPE_KEYS = ("torch_dtype", "dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which policy is wanted: the newest one, unless a step or the best one is asked for."""

    step: int | None = None
    is_best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    step: int
    files: Sequence[str]
    held_out_mean: float | None
    """Mean over the sources of the held-out metric, if the best step was asked for."""


def find_run(run: Path, overrides: Sequence[str]) -> tuple[RunFile, RunFolder]:
    """The run of a run file, or of a run folder wherever it is by now.

    Raises:
        UserError: it is neither.
    """
    if not run.is_dir():
        settings = load_run_file(run, overrides)
        return settings, settings.run.folder
    folder = RunFolder(run)
    if not folder.run_file.is_file():
        raise UserError("not the folder of a run", where=str(run), remedy="give a run file, or one such as runs/digits")
    return load_run_file(folder.run_file, overrides, environment={}), folder


def export_run(
    settings: RunFile, folder: RunFolder, target: Path, wish: Wish, *, overwrites: bool, max_shard_bytes: int
) -> Exported:
    """Write the policy of a step into a folder, whole or not at all.

    Args:
        settings: the run.
        folder: its folder.
        target: the folder to write.
        wish: which policy.
        overwrites: whether an earlier export in ``target`` is replaced.
        max_shard_bytes: weights that are larger are split into files of at most this size.

    Raises:
        UserError: the step or the model folder is not there, or the target is in use or cannot be written.
        StoreUnavailableError: the store does not answer.
    """
    _require_free(target, overwrites=overwrites)
    model = settings.model.path
    if not (model / "config.json").is_file():
        raise UserError(
            "the run's model folder is not there", where=str(model), remedy="give it by --set model.path=FOLDER"
        )
    store = open_store(settings.store, folder)
    weights = find_weights(store)
    step, mean = _choose(settings, folder, weights, wish, where=store.uri)
    try:
        with _building_folder(target) as building:
            files = _build(settings, store, weights[step], step, building, max_shard_bytes)
            if target.exists():
                shutil.rmtree(target)
            building.rename(target)
    except OSError as error:
        raise UserError(f"cannot be written ({error})", where=str(target), remedy="give another folder") from None
    return Exported(step=step, files=files, held_out_mean=mean)


@contextmanager
def _building_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, for this process alone; what a killed one left in it is removed.

    Raises:
        UserError: another process exports to the target.
    """
    folder = target.with_name(f".{target.name}.tmp")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except BlockingIOError:
        raise UserError("another export is written there", where=str(target), remedy="wait until it ends") from None
    finally:
        os.close(descriptor)


def _require_free(target: Path, *, overwrites: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    is_export = (target / ORIGIN).is_file()
    if not (is_export and overwrites):
        remedy = "give another folder, or --overwrite to replace that export" if is_export else "give another folder"
        what = "an earlier export is there" if is_export else "it is there, and no export"
        raise UserError(what, where=str(target), remedy=remedy)


def _choose(
    settings: RunFile, folder: RunFolder, weights: dict[int, str], wish: Wish, *, where: str
) -> tuple[int, float | None]:
    """The step, which has weights, and its held-out mean if it was chosen by it."""
    if not weights:
        raise UserError(
            "no weights are there", where=f"{where}/weights", remedy="run it first, or give its [store] uri"
        )
    if wish.is_best:
        means = _read_means(settings, folder)
        best = next((step for step in means if step in weights), None)
        if best is None:
            raise UserError(
                "no step whose held-out round is complete has weights",
                where=str(folder),
                remedy="give --step, or wait for an evaluation",
            )
        return best, means[best]
    step = max(weights) if wish.step is None else wish.step
    if step not in weights:
        raise UserError(
            f"no weights of step {step} are kept",
            where=f"{where}/weights",
            remedy=f"give one of {', '.join(map(str, weights))}; evaluated steps and the newest ones stay",
        )
    return step, None


def _read_means(settings: RunFile, folder: RunFolder) -> dict[int, float]:
    from tristream.monitoring.queries.best_step import read_held_out_means
    from tristream.monitoring.store.clickhouse import open_client

    if not settings.monitoring.clickhouse_url and not folder.clickhouse.is_dir():
        raise UserError(
            "the run has no database that would say which step is best",
            where=str(folder.clickhouse),
            remedy="give --step, or the database by --set monitoring.clickhouse_url=URL",
        )
    client = open_client(settings.monitoring, folder, timeout_seconds=5.0)
    try:
        return read_held_out_means(client, settings.run.id)
    finally:
        client.close()


def _build(settings: RunFile, store: BlobStore, uri: str, step: int, building: Path, max_shard_bytes: int) -> list[str]:
    downloaded = building / ".weights"
    try:
        store.download(uri, downloaded)
    except BlobError as error:
        raise UserError(str(error), where=uri, remedy="give another step") from None
    with downloaded.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    name = read_weights_name(uri)
    if name is None or not sha256.startswith(name.digits):
        raise UserError("the weights do not have their checksum", where=uri, remedy="give another step")
    model = settings.model.path
    _copy_beside(model, building)
    write_shards(downloaded, building, max_shard_bytes=max_shard_bytes)
    _set_dtype(building / "config.json", read_header(downloaded).dtype)
    downloaded.unlink()
    origin = {"run": settings.run.id, "step": step, "model": str(model), "weights_sha256": sha256}
    (building / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return sorted(str(path.relative_to(building)) for path in building.rglob("*") if path.is_file())


def _copy_beside(model: Path, building: Path) -> None:
    """Copy what a model folder has beside weights."""
    for path in model.iterdir():
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(path, building / path.name)
        elif path.is_dir() and path.name in KEPT_FOLDERS:
            shutil.copytree(path, building / path.name)


def _set_dtype(path: Path, dtype: str) -> None:
    """Have the configuration name the type that the weights have, since loaders convert to what it names."""
    config = json.loads(path.read_text(encoding="utf-8"))

    def visit(section: dict[str, Any]) -> None:
        for key, value in section.items():
            if key in DTYPE_KEYS and isinstance(value, str):
                section[key] = dtype
            elif isinstance(value, dict):
                visit(value)

    if dtype:
        visit(config)
        if not any(key in config for key in DTYPE_KEYS):
            config["dtype"] = dtype
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
