"""Answers, truths and parameters that no verifier expects, and every verifier meets."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

PLAIN_TRUTHS = (
    "4",
    r"\boxed{4}",
    "red",
    "B",
    "<answer>\n[{'bbox_2d': [10, 20, 300, 400], 'label': 'dog'}]\n</answer>",
)
"""Truths for a verifier of which no rows are at hand."""
ODD_TRUTHS = ("", " ", "\ud800", "\x00", r"\boxed{", "[]", "nan", "9" * 5000, "(" * 2000)
NUM_MUTATIONS = 60

# fmt: off
ODD_TEXTS = (
    "", " ", "\n", "\x00", "\ud800", "\udfff\ud800", "\ufeff", "\u202e4", "e\u0301", "👩‍👩‍👧", "٣", "½", "NaN", "1e999",
    "-0", "0x4", "1_000", "4.", "+4", "None", "null", "[]", "{}", "[{}]", '{"a": 1}', "\\", r"\boxed{}",
    r"\boxed{\boxed{4}}",
    r"\boxed{" * 500, "}" * 500, "(" * 5000, "[" * 5000, '{"a":' * 500, "<answer>" * 4000, "</answer>" * 4000,
    r"\frac{1}{" * 60 + "2" + "}" * 60, r"\boxed{" + "9" * 5000 + "}", r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{10^{100000}!}",
    "the the " * 5000, "x" * 1_000_000, "4\n" * 20_000, "\\" * 10_000, "'" * 10_000, "a b " * 10_000 + r"\boxed{4}",
)
_PIECES = (
    *"\\{}[]()<>/$^_'\",.-09e \n",
    r"\boxed{", r"\frac{1}{", r"\sqrt{", "<answer>", "</answer>", "<think>", "bbox_2d", "label", "∞",
    "٣", "e\u0301", "\ud83d",
)
# fmt: on

ODD_VALUES: tuple[Any, ...] = (
    "",
    "x",
    "\ud800",
    -1,
    0,
    0.5,
    1e308,
    10**30,
    True,
    [],
    [[]],
    ["x", None],
    {},
    {"\ud800": 1},
    {"x": {"y": [1, {}]}},
)


def answers_for(truth: str) -> tuple[str, ...]:
    """Answers such as a policy gives, right and wrong ones."""
    return (
        truth,
        rf"The answer is \boxed{{{truth}}}.",
        f"<think>\nIt is clear.\n</think>\n<answer>\n{truth}\n</answer>",
        "",
        "I do not know.",
        r"\boxed{17}",
        f"{'Let me think again. ' * 40}{truth}",
        rf"{truth} or \boxed{{{truth[::-1]}}}",
    )


def odd_texts() -> Iterator[str]:
    """Texts that are empty, huge, nested, half, or no text at all; the same ones each time."""
    yield from ODD_TEXTS
    generator = random.Random(7)
    for _ in range(NUM_MUTATIONS):
        yield "".join(generator.choices(_PIECES, k=generator.randint(1, 120)))


def odd_parameters(parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters of which one makes no sense, and one that no verifier has."""
    for name in parameters:
        for value in ODD_VALUES:
            yield {name: value}
    yield {"no such parameter \ud800": 1}
