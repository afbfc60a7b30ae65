"""What runs in a child process: load verifiers, then judge task after task, one verdict for each.

It runs behind the walls of ``isolation`` and within ``limits``. A hanging verifier is stopped from outside, so nothing
here watches the clock.
"""

import os
import socket
import sys
from collections.abc import Mapping
from functools import partial

from tristream.runtime.errors import UserError
from tristream.verifiers.definition import VerifierDefinition
from tristream.verifiers.loading import load_definition
from tristream.verifiers.pool.async_child import serve_async
from tristream.verifiers.pool.judging import Judge
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.limits import MemoryLimit
from tristream.verifiers.pool.messages import FACTS_NUMBER, pack_frame, read_frame, to_json
from tristream.verifiers.pool.progress import Progress
from tristream.verifiers.pool.texts import describe_error

OUT_OF_MEMORY_EXIT_CODE = 77
"""There was not even memory to say so."""


def run_child(spec: LaneSpec, sources: Mapping[str, bytes], connection: socket.socket, progress: Progress) -> None:
    """Serve one lane until the connection ends; the first frame out tells what is served.

    Args:
        spec: what is served.
        sources: content of the files that verifiers are in, by entry point.
        connection: to the parent, blocking.
        progress: where it says what it is at.
    """
    sys.dont_write_bytecode = True
    # A process that a verifier forks is not to speak in our name.
    os.register_at_fork(after_in_child=partial(os.close, connection.fileno()))
    try:
        definitions = _load(spec, sources)
        told = {"facts": [_facts_of(definition) for definition in definitions.values()]}
    except UserError as error:
        connection.sendall(_frame({"what": error.what, "where": error.where, "remedy": error.remedy}))
        return
    except BaseException as error:  # it is the code of a verifier
        connection.sendall(_frame({"failure": describe_error(error)}))
        return
    limits = {name: spec.limits_of(definition.limits) for name, definition in definitions.items()}
    memory = MemoryLimit()
    memory.set(max(limit.memory_mib for limit in limits.values()))
    judge = Judge(definitions, {name: limit.memory_mib for name, limit in limits.items()})
    connection.sendall(_frame(told))
    try:
        if spec.is_async:
            serve_async(judge, connection, progress, {name: limit.wall_seconds for name, limit in limits.items()})
        else:
            _serve(judge, connection, progress)
    except MemoryError:
        os._exit(OUT_OF_MEMORY_EXIT_CODE)
    except (EOFError, ConnectionError):
        return


def _serve(judge: Judge, connection: socket.socket, progress: Progress) -> None:
    stream = connection.makefile("rb")
    while True:
        number, content, blobs = read_frame(stream)
        progress.mark(number, is_truth_fine=False)
        verdict = judge.judge(content, blobs, on_truth=partial(progress.mark, number, is_truth_fine=True))
        progress.mark(0, is_truth_fine=False)
        connection.sendall(pack_frame(number, verdict))


def _load(spec: LaneSpec, sources: Mapping[str, bytes]) -> dict[str, VerifierDefinition]:
    return {
        name: load_definition(entry_point, name, source=sources.get(entry_point))
        for name, entry_point in spec.entry_points.items()
    }


def _facts_of(definition: VerifierDefinition) -> list[object]:
    limits = definition.limits
    return [
        definition.name,
        definition.version,
        {name: [float(low), float(high)] for name, (low, high) in definition.components.items()},
        str(definition.scope),
        definition.is_async,
        sorted(str(need) for need in definition.needs),
        [float(limits.cpu_seconds), float(limits.wall_seconds), int(limits.memory_mib)],
    ]


def _frame(told: Mapping[str, object]) -> bytes:
    return pack_frame(FACTS_NUMBER, to_json(told))
