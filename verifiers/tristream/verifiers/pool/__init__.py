"""Judging in child processes that may hang, crash and lie.

    submit(tasks) -> queue of a lane -> bytes -> child -> bytes -> checked -> verdict
                                                 ^ forked, told to stop, killed
                                           fork server: built-ins loaded, walls up

What a child sends is bytes that are checked like a stranger's: nothing is unpickled.
"""

from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import Judgement, PoolError, Task, Verdict, VerifierFacts

__all__ = ["Judgement", "Pool", "PoolError", "Task", "Verdict", "VerifierFacts"]
