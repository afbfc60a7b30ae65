"""``[verification]``: how rollouts are scored."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tristream.config.base import Section
from tristream.wire.verifiers import canonical_name

VERSIONED_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}@[A-Za-z0-9_.-]{1,32}")
FILE_SUFFIX = ".py"


class VerificationSection(Section):
    """How rollouts are scored."""

    verifiers: tuple[str, ...] = ()
    """Verifiers of the worker; empty means all built-in ones and all plug-ins."""
    plug_ins: dict[str, str] = Field(default_factory=dict)
    """Verifiers of your own: ``NAME@VERSION = "module:name"`` or ``"file.py:name"``, below the run file's folder."""
    shadows: tuple[str, ...] = ()
    """Those of the plug-ins that score every rollout of every source, and count for nothing; they share the processes
    of what counts, so one that is slow slows the run, unless it is added by ``tristream verifiers add``."""
    num_processes: int = Field(default=1, ge=1)
    """Child processes that score."""
    cpu_seconds: float | None = Field(default=None, gt=0)
    """CPU time that judging one rollout may use, instead of what its verifier declares."""
    wall_seconds: float | None = Field(default=None, gt=0)
    """Time that judging one rollout may take, waiting included, instead of what its verifier declares."""
    memory_mib: int | None = Field(default=None, ge=16)
    """Memory that judging one rollout may use, instead of what its verifier declares."""
    on_timeout: Literal["zero", "unscored"] = "zero"
    """What an answer is worth on which a verifier uses up its limits, where the truth is fine."""
    window_size: int = Field(default=512, ge=1)
    """Most rollouts that are scored at once; one that takes long delays no other of them."""
    group_wait_seconds: float = Field(default=300.0, gt=0)
    """How long verifiers of whole groups wait for the rest of a group, by the time of the log; then it gets errors."""
    batch_size: int = Field(default=64, ge=1)
    """Most rollouts taken from the log at once."""

    @field_validator("verifiers")
    @classmethod
    def _by_canonical_name(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({canonical_name(name) for name in names}))

    @field_validator("plug_ins")
    @classmethod
    def _are_versioned(cls, plug_ins: dict[str, str]) -> dict[str, str]:
        for name, entry_point in plug_ins.items():
            if not VERSIONED_NAME.fullmatch(name):
                raise ValueError(f"'{name}' is no NAME@VERSION, such as brief@1")
            place, _, function = entry_point.rpartition(":")
            if not place or not function:
                raise ValueError(f"'{entry_point}' is neither module:name nor file.py:name")
        return plug_ins

    @model_validator(mode="after")
    def _shadows_are_plug_ins(self) -> Self:
        if unknown := sorted(set(self.shadows) - self.plug_ins.keys()):
            raise ValueError(f"the shadow '{unknown[0]}' is none of the plug_ins, such as brief@1")
        return self

    def below(self, folder: Path) -> "VerificationSection":
        """The section with the files of its plug-ins below a folder, but for those that are absolute."""
        plug_ins = {name: absolute_entry_point(entry_point, folder) for name, entry_point in self.plug_ins.items()}
        return self.model_copy(update={"plug_ins": plug_ins})


def absolute_entry_point(entry_point: str, folder: Path) -> str:
    """``FILE.py:NAME`` below a folder, unless the file is absolute; ``MODULE:NAME`` as it is."""
    place, _, function = entry_point.rpartition(":")
    return f"{folder / place}:{function}" if place.endswith(FILE_SUFFIX) else entry_point
