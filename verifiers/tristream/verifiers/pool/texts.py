"""Words for people about what went wrong, whatever it is."""

import signal
from types import TracebackType

MAX_DETAIL_CHARACTERS = 1000


def clean(text: str) -> str:
    """Text for a record: lone surrogates replaced, and not longer than people read."""
    return text[:MAX_DETAIL_CHARACTERS].encode(errors="replace").decode()


def text_of(error: BaseException) -> str:
    """The text of an error, even of one that cannot give it."""
    try:
        return clean(str(error))
    except BaseException:  # it is the code of a verifier
        return "an error without a text"


def describe_error(error: BaseException) -> str:
    """Kind, text and place of an error."""
    try:
        kind = clean(type(error).__name__)
    except BaseException:  # even that may be the code of a verifier
        kind = "an error without a name"
    return clean(f"{kind}: {text_of(error)[:300]}{_place_of(error.__traceback__)}")


def _place_of(trace: TracebackType | None) -> str:
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"


def describe_end(status: int) -> str:
    """How a process ended, by what ``waitpid`` says of it: ``exit code 7`` or ``signal SIGSEGV``."""
    if status < 0:
        try:
            return f"signal {signal.Signals(-status).name}"
        except ValueError:
            return f"signal {-status}"
    return f"exit code {status}"
