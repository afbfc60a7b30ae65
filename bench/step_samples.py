"""What the timed steps of the learner's benchmark add up to: medians over batches, and their tables."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.measuring import make_table, show, spread

NAMES = {
    "ours": "tristream: load images, pack, train_step",
    "bare": "bare: the packed micro-batches in plain torch",
    "padded": "padded: a row for each rollout, plain torch",
}


@dataclass(slots=True, kw_only=True)
class Samples:
    """Seconds and tokens of each timed step of one kind."""

    seconds: list[float] = field(default_factory=list)
    num_completion_tokens: list[int] = field(default_factory=list)
    num_model_tokens: list[int] = field(default_factory=list)


def summarize(samples: dict[str, Samples]) -> dict[str, dict[str, float]]:
    """Medians over the batches; percentages are medians of the ratio to the bare step on the same batch."""
    return {
        name: {
            "milliseconds_per_step": 1000 * statistics.median(of.seconds),
            "milliseconds_p10": 1000 * spread(of.seconds)["p10"],
            "milliseconds_p90": 1000 * spread(of.seconds)["p90"],
            "completion_tokens_per_second": median_ratio(of.num_completion_tokens, of.seconds),
            "model_tokens_per_step": statistics.median(of.num_model_tokens),
            "model_tokens_per_second": median_ratio(of.num_model_tokens, of.seconds),
            "percent_of_bare": 100 * median_ratio(samples["bare"].seconds, of.seconds),
        }
        for name, of in samples.items()
    }


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def print_tables(summary: dict[str, dict[str, float]], phases: dict[str, float]) -> None:
    columns = ("step", "ms/step", "p10..p90", "completion tok/s", "model tok/step", "model tok/s", "% of bare")
    rows = [
        (
            NAMES[name],
            f"{row['milliseconds_per_step']:.0f}",
            f"{row['milliseconds_p10']:.0f}..{row['milliseconds_p90']:.0f}",
            f"{row['completion_tokens_per_second']:,.0f}",
            f"{row['model_tokens_per_step']:,.0f}",
            f"{row['model_tokens_per_second']:,.0f}",
            f"{row['percent_of_bare']:.1f}",
        )
        for name, row in summary.items()
    ]
    parts = [(name, f"{1000 * seconds:.1f}") for name, seconds in phases.items()]
    show(make_table("one training step", columns, rows), make_table("inside tristream's step", ("part", "ms"), parts))
