"""constraints.txt against what the extras of `make setup` have installed here."""

import re
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[2] / "constraints.txt"
LINES = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
EXTRAS = frozenset({"local", "ops", "examples", "dev"})
LEFT_TO_TORCH = re.compile("cuda-|nvidia-|triton")
LEFT_TO_PYTHON = frozenset({"setuptools"})


def installed_versions() -> dict[str, str]:
    """Versions, without a local part, of all that tristream with these extras requires on this Python."""
    versions: dict[str, str] = {}
    waiting = [("tristream", EXTRAS)]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found = distribution(name)
        versions[name] = found.version.partition("+")[0]
        for requirement in map(Requirement, found.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    del versions["tristream"]
    return versions


def test_every_line_pins_one_public_version_and_they_are_in_order() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line)] == []
    assert sorted(LINES, key=str.upper) == LINES


def test_every_distribution_of_make_setup_is_pinned_to_the_version_here() -> None:
    pinned: dict[str, str] = {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)
    }
    installed = {
        name: version
        for name, version in installed_versions().items()
        if not LEFT_TO_TORCH.match(name) and name not in LEFT_TO_PYTHON
    }
    assert len(installed) > 100
    assert {name: pinned.get(name) for name in installed} == installed
