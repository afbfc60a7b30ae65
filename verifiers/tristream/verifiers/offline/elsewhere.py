"""Judging the same lines in another process, with another seed of hashes and in another folder."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from tristream.runtime.errors import UserError
from tristream.verifiers.offline.describing import describe
from tristream.verifiers.offline.file_scoring import to_json_line
from tristream.verifiers.offline.lines_of_file import read_lines
from tristream.verifiers.offline.plain_lines import PlainLines
from tristream.verifiers.offline.pools import running_pool
from tristream.verifiers.offline.scoring import score_lines
from tristream.verifiers.offline.served import serve_one

TIMEOUT_SECONDS = 600.0


def judge_elsewhere(entry_point: str, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The answers of another process to the same lines.

    Raises:
        UserError: that process failed.
    """
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "4711"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tristream.verifiers.offline.elsewhere", entry_point],
            check=False,
            input=b"".join(map(to_json_line, lines)),
            capture_output=True,
            cwd=folder,
            env=os.environ | environment,
            timeout=TIMEOUT_SECONDS,
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0 or len(answers) != len(lines):
        last_words = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
        raise UserError(f"it does not run elsewhere: {last_words[0][:300]}", where=entry_point, remedy="see its module")
    return answers


def main() -> None:
    """Judge the lines on standard input with the verifier that the command line names."""
    served = serve_one(describe(sys.argv[1]))
    line_format = PlainLines(served, lambda _spec, _components: None)
    with running_pool(served, 1) as pool:
        for _line, answer in score_lines(read_lines(BytesIO(sys.stdin.buffer.read())), line_format, pool):
            sys.stdout.buffer.write(to_json_line(answer.fields))


if __name__ == "__main__":
    main()
