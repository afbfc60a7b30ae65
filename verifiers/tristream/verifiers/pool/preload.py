"""Loads the built-in verifiers before children are forked, so that each starts warm."""

from collections.abc import Iterable
from io import BytesIO

from tristream.runtime.errors import UserError
from tristream.verifiers.contract import Rollout
from tristream.verifiers.loading import load_definition
from tristream.verifiers.pool.judging import Judge
from tristream.verifiers.pool.messages import pack_task, read_frame
from tristream.verifiers.pool.tasks import Task

EXAMPLE = Rollout(text=r"\boxed{\frac{1}{2}}", ground_truth="0.5")


def preload(names: Iterable[str]) -> None:
    """Load built-in verifiers, by ``NAME@VERSION``, and judge an example with each, whatever comes of it."""
    for name in names:
        try:
            definition = load_definition("", name)
        except UserError:  # the child says it to the pool
            continue
        judge = Judge({name: definition}, {name: definition.limits.memory_mib})
        for _ in range(2):
            _, content, blobs = read_frame(
                BytesIO(pack_task(1, Task(verifier=name, rollouts=(EXAMPLE,)), with_images=True))
            )
            judge.judge(content, blobs, on_truth=lambda: None)
