"""Starting and stopping a part: signals become an event, logs become lines."""

import logging
import signal
import sys
import threading
from types import FrameType

from tristream.runtime.hooks import name_this_part
from tristream.wire.events import Part


def start_part(part: Part) -> tuple[logging.Logger, threading.Event]:
    """Make this process a part: its log lines carry the part's name, and signals set the event returned."""
    name_this_part(part)
    return log_to_stderr(part), stop_on_signals()


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set, so that loops end in order."""
    stop = threading.Event()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    return stop


def log_to_stderr(part: str, level: int = logging.INFO) -> logging.Logger:
    """Configure plain one-line logs and return the part's logger."""
    logging.basicConfig(
        stream=sys.stderr, level=level, format=f"%(asctime)s {part} %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("kafka").setLevel(
        logging.CRITICAL
    )  # the bus says what it waits for, once and not ten times a second
    for noisy in ("aiokafka", "faust", "mode", "httpx", "urllib3", "DeepSpeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return logging.getLogger(f"tristream.{part}")
