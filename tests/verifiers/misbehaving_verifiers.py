"""Verifiers that do what verifiers must not do, for pools to load as ``misbehaving_verifiers.py:NAME``.

Each does what the answer says; most answers are simply right if they are the truth.
"""

import asyncio
import ctypes
import json
import os
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tristream.verifiers import Abstain, Limits, Rollout, Score, Unscorable, verifier


def global_pid() -> int:
    """Our number outside of our namespace."""
    return int(Path("/proc/self").readlink().name)


def hang(_rollout: Rollout) -> NoReturn:
    while True:
        pass


def crash(_rollout: Rollout) -> NoReturn:
    os._exit(7)


def read_nothing(_rollout: Rollout) -> NoReturn:
    ctypes.string_at(0)
    raise AssertionError("that is a segmentation fault")


def leave(_rollout: Rollout) -> NoReturn:
    sys.exit(3)


def interrupt(_rollout: Rollout) -> NoReturn:
    raise KeyboardInterrupt


def fail(_rollout: Rollout) -> NoReturn:
    raise RuntimeError("no such luck")


def refuse(_rollout: Rollout) -> NoReturn:
    raise Unscorable("the truth is bad")


def abstain(_rollout: Rollout) -> NoReturn:
    raise Abstain


class MuteError(Exception):
    """Cannot even give its text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def fall_silent(_rollout: Rollout) -> NoReturn:
    raise MuteError


def fail_in_surrogates(_rollout: Rollout) -> NoReturn:
    raise RuntimeError("a \ud800 surrogate")


def recurse(rollout: Rollout) -> float:
    return recurse(rollout)


def use_memory(_rollout: Rollout) -> float:
    """Take 64 MiB at a time, so that the memory ends long before the time does on a busy machine."""
    hoard = []
    while True:
        hoard.append(bytearray(2**26))


def hoard(_rollout: Rollout) -> None:
    """Takes more than half of the memory, and never ends."""
    kept = bytearray(150 * 2**20)
    while kept:
        pass


def use_memory_at_once(_rollout: Rollout) -> float:
    return float(len(bytearray(2**36)))


def fork(_rollout: Rollout) -> float:
    os.fork()
    return 1.0


def leave_a_process(_rollout: Rollout) -> Score:
    """A process that outlives this one, in a session of its own."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(writing, struct.pack("<i", global_pid()))
            time.sleep(600)
        os._exit(0)
    (pid,) = struct.unpack("<i", os.read(reading, 4))
    return Score(components={"accuracy": 1.0}, metrics={"pid": float(pid)})


def call_home(rollout: Rollout) -> float:
    """Connect to the port that the truth names."""
    with socket.create_connection(("127.0.0.1", int(rollout.ground_truth)), timeout=2):
        return 1.0


def write(_rollout: Rollout) -> float:
    path = Path(f"/tmp/tristream-misbehaving-{os.getpid()}")
    try:
        path.write_text("something")
    finally:
        path.unlink(missing_ok=True)
    return 1.0


def read_shadow(_rollout: Rollout) -> float:
    return float(len(Path("/etc/shadow").read_bytes()) > 0)


def tell_pid(_rollout: Rollout) -> Score:
    return Score(components={"accuracy": 1.0}, metrics={"pid": float(global_pid()), "uid": float(os.getuid())})


def send_nonsense(rollout: Rollout) -> float:
    """Write to the parent in the pool's name what the truth says, then stay silent."""
    contents = {
        "pickle": b"\x80\x04\x95",
        "long": b"9" * 2**20,
        "nan": b'["scored", "", true, 0, 0, [[{"accuracy": NaN}, [], {}, "{}"]]]',
        "infinite": b'["scored", "", true, 0, 0, [[{"accuracy": 1e999}, [], {}, "{}"]]]',
        "out of range": b'["scored", "", true, 0, 0, [[{"accuracy": 7}, [], {}, "{}"]]]',
        "undeclared": b'["scored", "", true, 0, 0, [[{"speed": 1}, [], {}, "{}"]]]',
        "surrogate": b'["scored", "", true, 0, 0, [[{"accuracy": 1}, [], {"\\ud800": 1}, "{}"]]]',
        "no object": b'["scored", "", true, 0, 0, [[{"accuracy": 1}, [], {}, "[1]"]]]',
        "two": b'["scored", "", true, 0, 0, [[{"accuracy": 1}, [], {}, "{}"], [{"accuracy": 1}, [], {}, "{}"]]]',
        "status": b'["splendid", "", true, 0, 0, []]',
        "deep": b"[" * 100_000,
    }
    content = contents[rollout.ground_truth]
    os.write(connection(), struct.pack(">QII", _running_number(), len(content), 0))
    with suppress(OSError):
        for start in range(0, len(content), 4096):
            os.write(connection(), content[start : start + 4096])
    time.sleep(600)
    return 1.0


def truncate(rollout: Rollout) -> NoReturn:
    """Make the memory that the pool looks at shorter, then have it look."""
    for descriptor in range(3, 64):
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
    hang(rollout)


def hang_up(_rollout: Rollout) -> float:
    os.close(connection())
    time.sleep(600)
    return 1.0


def connection() -> int:
    """File descriptor of a child's connection to its pool."""
    for descriptor in range(3, 64):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return descriptor
    raise AssertionError("there is none")


def _running_number() -> int:
    """The number of our task, from the memory that the pool looks at."""
    mapped = next(line for line in Path("/proc/self/maps").read_text().splitlines() if "tristream-progress" in line)
    address = int(mapped.partition("-")[0], 16)
    return int(ctypes.c_uint64.from_address(address).value)


VALUES: dict[str, Any] = {
    "nan": float("nan"),
    "too much": 1.5,
    "huge number": 10**400,
    "text as number": "1.0",
    "no number": object(),
    "boolean": True,
    "silent": None,
    "infinite metric": Score(components={"accuracy": 1.0}, metrics={"size": float("inf")}),
    "undeclared": Score(components={"accuracy": 1.0, "speed": 1.0}),
    "missing": Score(components={}),
    "surrogate name": Score(components={"accuracy \ud800": 1.0}),
    "surrogate metric": Score(components={"accuracy": 1.0}, metrics={"size \ud800": 1.0}),
    "set in params": Score(components={"accuracy": 1.0}, params_used={"labels": {"b", "a"}}),
    "unwritable params": Score(components={"accuracy": 1.0}, params_used={"lambda": len}),
    "nan params": Score(components={"accuracy": 1.0}, params_used={"limit": float("nan")}),
    "surrogate params": Score(components={"accuracy": 1.0}, params_used={"note": "\ud800"}),
    "huge": Score(components={"accuracy": 1.0}, params_used={"notes": "x" * 2**20}),
    "many": (1.0, 2.0),
}

ACTIONS: dict[str, Callable[[Rollout], Any]] = {
    "hang": hang,
    "crash": crash,
    "segfault": read_nothing,
    "exit": leave,
    "interrupt": interrupt,
    "raise": fail,
    "unscorable": refuse,
    "abstain": abstain,
    "mute": fall_silent,
    "surrogate detail": fail_in_surrogates,
    "recurse": recurse,
    "memory": use_memory,
    "memory at once": use_memory_at_once,
    "hoard": hoard,
    "fork": fork,
    "leave a process": leave_a_process,
    "call home": call_home,
    "write": write,
    "shadow": read_shadow,
    "pid": tell_pid,
    "nonsense": send_nonsense,
    "hang up": hang_up,
    "truncate": truncate,
}

TRUTHS: dict[str, Callable[[Rollout], Any]] = {"truth hangs": hang, "truth crashes": crash, "truth is bad": refuse}

truths_parsed: list[str] = []


def parse(ground_truth: str) -> str:
    """A truth that may do as answers do."""
    truths_parsed.append(ground_truth)
    if ground_truth in TRUTHS:
        TRUTHS[ground_truth](Rollout(text=""))
    return ground_truth


def act(rollout: Rollout) -> Any:
    text = rollout.text
    if text in ACTIONS:
        return ACTIONS[text](rollout)
    if text in VALUES:
        return VALUES[text]
    if text.startswith("sleep "):
        time.sleep(float(text.removeprefix("sleep ")))
    if text.startswith("compute "):
        until = time.process_time() + float(text.removeprefix("compute "))
        while time.process_time() < until:
            pass
    if text == "truths":
        return Score(components={"accuracy": 1.0}, metrics={"num_truths_parsed": float(len(truths_parsed))})
    return Score(components={"accuracy": float(text == rollout.truth)}, params_used={"step": rollout.step})


SMALL = Limits(cpu_seconds=0.5, wall_seconds=3.0, memory_mib=256)


@verifier(name="misbehaving", version="7", components=["accuracy"], truth=parse, limits=SMALL)
def misbehaving(rollout: Rollout) -> Any:
    return act(rollout)


@verifier(name="misbehaving", version="8", components=["accuracy"], truth=parse, limits=SMALL)
def misbehaving_again(rollout: Rollout) -> Any:
    return act(rollout)


@verifier(name="unruly", version="1", components=["accuracy"], needs=["processes", "network"], limits=SMALL)
def unruly(rollout: Rollout) -> Any:
    """One that may start processes and reach the network."""
    return act(rollout)


@verifier(version="1", components={"value": (-1.0, 1.0), "style": (0.0, 1.0)})
def strict(rollout: Rollout, *, scale: float = 1.0, words: list[str] | None = None) -> dict[str, float | None]:
    """Two components, and parameters; the answer is JSON of both."""
    told: dict[str, float | None] = json.loads(rollout.text)
    value = told.get("value")
    return {**told, "value": None if value is None else value * scale * (1 + len(words or []))}


@verifier(version="1", components=["accuracy"], scope="group")
def longest(rollouts: tuple[Rollout, ...]) -> list[float | None]:
    """Group-relative: the longest answer is right; an empty one abstains."""
    most = max(len(rollout.text) for rollout in rollouts)
    if any(rollout.text == "one for all" for rollout in rollouts):
        return [1.0]
    return [float(len(rollout.text) == most) if rollout.text else None for rollout in rollouts]


@verifier(version="1", components=["accuracy"], limits=Limits(cpu_seconds=0.5, wall_seconds=2.0))
async def patient(rollout: Rollout) -> Any:
    """Waits for others, or blocks them."""
    text = rollout.text
    if text.startswith("wait "):
        await asyncio.sleep(float(text.removeprefix("wait ")))
        return 1.0
    if text == "stubborn":
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                continue
    return act(rollout)


@verifier(version="1", components=["accuracy"], needs=["images"])
def pictured(rollout: Rollout) -> Score:
    """Sees the bytes of images."""
    sizes = {f"bytes_{place}": float(len(image.data)) for place, image in enumerate(rollout.images)}
    return Score(components={"accuracy": float(rollout.images[0].data == b"first")}, metrics=sizes)
