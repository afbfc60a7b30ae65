"""A program on several ranks, as torchrun starts it."""

import os
import subprocess
import sys
from pathlib import Path

ATTEMPTS = 3
PORT_IS_TAKEN = ("address already in use", "EADDRINUSE", "failed to listen")


def run_ranks(program: Path, *arguments: str, num_ranks: int) -> None:
    """Run a Python program on so many ranks to its end; torchrun's port may be taken by others, so it tries again."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"] if num_ranks > 1 else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(
            [sys.executable, *launcher, str(program), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        is_taken = any(words.lower() in done.stderr.lower() for words in PORT_IS_TAKEN)
        if not (done.returncode and is_taken and attempt < ATTEMPTS):
            break
    assert done.returncode == 0, done.stderr[-6000:]
