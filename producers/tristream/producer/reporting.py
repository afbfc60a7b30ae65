"""What the producer does and what it waits for, told again and again."""

import asyncio
from functools import partial
from typing import Literal

from tristream.producer.daemon_threads import DaemonThreads
from tristream.producer.measuring import Meter
from tristream.runtime.status import PartReporter
from tristream.wire.events import PartState

REPORT_SECONDS = 0.2
"""How often there may be something new to say; the reporter says it less often."""
What = Literal["weights", "images", "prompts"]


class ProducerReport:
    """Tells the state of a producer; any thread may say what is waited for."""

    def __init__(self, reporter: PartReporter, meter: Meter) -> None:
        self._reporter = reporter
        self._meter = meter
        self._words: dict[What, str] = {"weights": "", "images": "", "prompts": ""}

    def say(self, what: What, words: str) -> None:
        """Say what is waited for of one kind, or nothing."""
        self._words[what] = words

    def waiting_for(self) -> str:
        """What it waits for, in words; nothing while something is generated."""
        if self._meter.num_unfinished == 0:
            return self._words["prompts"]
        if self._meter.engine.num_running > 0:
            return ""
        return self._words["weights"] or self._words["images"]

    async def tell_for_ever(self) -> None:
        """Report again and again, from a thread, as neither disk nor broker may hold up the engine."""
        thread = DaemonThreads("report")
        try:
            while True:
                measures = self._meter.measures()
                report = partial(self._reporter.report, PartState.READY, self.waiting_for(), measures=measures)
                await thread.do(report)
                await asyncio.sleep(REPORT_SECONDS)
        finally:
            thread.close()

    def tell(self, state: PartState, waiting_for: str = "") -> None:
        """Report a state, with all that was done."""
        self._reporter.report(state, waiting_for, measures=self._meter.measures())
