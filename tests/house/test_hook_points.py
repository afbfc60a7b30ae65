"""Every point at which a part can be killed is one at which a test kills it."""

import re
from fnmatch import fnmatch
from pathlib import Path

from hook_points import HOOK_POINTS, NOT_REACHED
from tristream.wire.topics import ALL_TOPICS

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("core", "producers", "verifiers", "learner", "monitoring", "deploy")
PLACED = re.compile(r"""\breach\(f?"(?P<point>[^"]+)"\)""")
OF_TOPIC = "{topic.name}"


def placed_points() -> set[str]:
    """The points in the code, ``*`` for the name of a topic."""
    files = (path for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py"))
    texts = (path.read_text(encoding="utf-8") for path in files)
    return {match["point"].replace(OF_TOPIC, "*") for text in texts for match in PLACED.finditer(text)}


def killed_points() -> set[str]:
    return {point.partition(":")[0] for points in HOOK_POINTS.values() for point in points}


def test_every_point_in_the_code_is_one_where_a_part_is_killed_or_says_why_not() -> None:
    known = killed_points() | NOT_REACHED.keys()
    unknown = {placed for placed in placed_points() if not any(fnmatch(point, placed) for point in known)}
    assert not unknown, "not in tests/support/hook_points.py"


def test_every_point_where_a_part_is_killed_is_in_the_code() -> None:
    placed, names = placed_points(), {topic.name for topic in ALL_TOPICS}
    for point in killed_points() | NOT_REACHED.keys():
        assert any(fnmatch(point, pattern) for pattern in placed), f"{point} is nowhere"
        kind, _, name = point.partition(".")
        assert f"{kind}.*" not in placed or name in names, f"{point} names no topic"


def test_every_call_of_reach_can_be_read_here() -> None:
    files = [path for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py")]
    calls = [
        line
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\breach\(", line)
    ]
    assert [line for line in calls if not PLACED.search(line) and "def reach(" not in line] == []
