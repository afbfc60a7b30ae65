"""Run the demo with one thing changed, for those who doubt: ``python examples/digits/controls.py NAME``.

Each control is ``tristream up run.toml`` with some keys set; everything after the name is passed on, such as
``--steps 40 --seed 2``.
"""

import argparse
import sys
import tomllib
from pathlib import Path

from answer_verifiers import BUILT_IN

from tristream.cli.main import main as tristream

HERE = Path(__file__).resolve().parent
RUN_FILE = HERE / "run.toml"
MIDDLE_THRESHOLD = 0.5
"""The fixed threshold of detection that the dynamic one is held against: its first value."""


def replace_verifiers(version: str) -> list[str]:
    """Keys that put verifiers of this example in the place of the built-in ones."""
    return [f'verification.plug_ins.{name}@{version}="answer_verifiers.py:{version}_{name}"' for name in BUILT_IN]


def train_one_source(name: str) -> list[str]:
    """Keys that leave one source in the run."""
    sections = tomllib.loads(RUN_FILE.read_text(encoding="utf-8"))["sources"]
    position = next(number for number, section in enumerate(sections) if section["name"] == name)
    inline = ", ".join(f"{key} = {_inline(value)}" for key, value in sections[position].items())
    return [f"sources=[{{ {inline} }}]"]


def _inline(value: object) -> str:
    """A value of the run file as inline TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    return repr(value)


CONTROLS: dict[str, list[str]] = {
    "shuffled": replace_verifiers("shuffled"),
    "style-alone": replace_verifiers("style"),
    "only-read": train_one_source("digits_read"),
    "only-count": train_one_source("digits_count"),
    "only-sum": train_one_source("digits_sum"),
    "only-find": train_one_source("digits_find"),
    "fixed-threshold": [f"sources.3.params={{ threshold = {MIDDLE_THRESHOLD} }}"],
}
"""What is set, by the name of the control."""


def main() -> None:
    """Start the run of a control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTROLS, help="which control")
    arguments, further = parser.parse_known_args()
    keys = [f"run.id=digits-{arguments.name}", *CONTROLS[arguments.name]]
    settings = [word for key in keys for word in ("--set", key)]
    sys.argv = ["tristream", "up", str(RUN_FILE), *settings, *further]
    tristream()


if __name__ == "__main__":
    main()
