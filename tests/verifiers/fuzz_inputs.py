"""Answers, truths, parameters and places in a run, from sensible to absurd, for each built-in verifier."""

import json
import random
import string
from collections.abc import Callable, Sequence
from typing import Any

from tristream.verifiers.contract import Rollout
from tristream.verifiers.pool import Task
from tristream.wire.verifiers import BUILT_IN_VERSIONS, versioned_name

PIECES = (
    *(
        r"\boxed{",
        r"\frac{1}{2}",
        r"\frac{",
        r"\sqrt{2}",
        r"\text{red}",
        "$",
        r"\(",
        r"\)",
        r"\[",
        r"\]",
        "^{",
        "}",
        "{",
    ),
    *(
        "<answer>",
        "</answer>",
        "\n<answer>\n",
        "\n</answer>",
        "<think>\n",
        "\n</think>\n",
        "answer:",
        "final answer is",
    ),
    *(
        "[{'bbox_2d': [0, 0, 100, 100], 'label': 'dog'}]",
        '{"bbox_2d": [1, 2, 3, 4], "label": "cat"}',
        "[",
        "]",
        "},",
        ",",
    ),
    *("4", "-4", "0.5", "1/2", "1e999", "9" * 40, "A", "(B)", "x^2", "!", "%", " cm", "red", "\n", " ", "\\", "'", '"'),
    *("\x00", "\ud800", "∞", "٤", "e\u0301", "\u202e", "nan", "null", "true"),
)
BOXES = (
    "<answer>\n[{'bbox_2d': [0, 0, 100, 100], 'label': 'dog'}]\n</answer>",
    "<answer>\n[{'bbox_2d': [0, 0, 50, 50], 'label': 'a'}, {'bbox_2d': [9, 9, 60, 60], 'label': 'a'}]\n</answer>",
    "<answer>[]</answer>",
)
NUMBERS = ("4", r"\boxed{4}", "1,024", r"\boxed{-3}")
FITTING: dict[str, Sequence[str]] = {
    "choice": ("B", "(B)", r"\boxed{C}", "A. red"),
    "counting": NUMBERS,
    "detection": BOXES,
    "math": (*NUMBERS, r"\boxed{\frac{1}{2}}", r"\boxed{x^2-1}", r"\boxed{red}", r"\boxed{(1,2)}"),
    "number": (*NUMBERS, "1,024.5"),
    "regex": (r"\d+", "(a|b)*c", "red"),
}
"""Truths that a verifier can read; any text is one for the others."""
TRUTHS = (*BOXES, *NUMBERS, "red", "B", r"\d+", r"\boxed{\frac{1}{2}}")
ODD_VALUES: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 0.5, 1.5, -0.0, 10**30, 10**400, 1e308, float("nan"), float("inf"), "", "x", "0.5"),
    *("\ud800", [], [[]], {}, {"x": 1}, {"\ud800": 1}, [None], [0.5, 0.9], [[0.5, 0.9], [1.0, 0.99]], [[1, 420, 616]]),
    *([[1, 0, 0]], ["think", "answer"], {"map": 1.0}, {"map": None}, {"iou_max_label_first": 0.5, "map75": 0.5}),
)
GOOD_PARAMETERS: dict[str, Sequence[Any]] = {
    "style": ("standard", "vtriune"),
    "answer_in": ("boxed", "tags", "last_line", "text"),
    "threshold": ("dynamic", "average", 0.5, 0.99, 1),
    "schedule": ([[0.1, 0.5], [1.0, 0.7]],),
    "det_reward_ratio": ({"iou_max_label_first": 1.0, "iou_completeness": 0.3}, {"iou_max_iou_first": 1, "map": 1}),
    "det_verifier_normalized": (True, False),
    "image_grid_thw": ([[1, 420, 616]],),
    "zero_at_error": (1, 5),
    "score": ("exact", "similarity"),
    "ignore_case": (True, False),
    "is_whole": (True, False),
    "pattern": (r"\d+", "a*b", ""),
    "tolerance": (0.1,),
    "relative_tolerance": (0.1,),
    "layout": (["think", "answer"],),
    "max_tokens": (100, 1000),
    "buffer_tokens": (10,),
    "is_training": (True,),
    "image_path": (["a.png"],),
}
STEPS = (0, 1, 10, 26, 50, 90, 100, -5, 10**18, 10**400)


def make_task(rng: random.Random, name: str) -> Task:
    """A task for a verifier."""
    rollout = Rollout(
        text=_text(rng),
        ground_truth=rng.choice(FITTING.get(name, TRUTHS)) if rng.random() < 0.9 else _text(rng),
        step=rng.choice(STEPS),
        total_steps=100 if rng.random() < 0.9 else rng.choice((1, 0, -3, 10**400)),
        num_sampled_tokens=rng.choice((0, 5, 95, 10**6)),
        finish_reason=rng.choice(("stop", "length")),
    )
    params = "[1]" if rng.random() < 0.005 else json.dumps(_parameters(rng, name))
    return Task(verifier=versioned_name(name, BUILT_IN_VERSIONS[name]), rollouts=(rollout,), params_json=params)


def _parameters(rng: random.Random, name: str) -> dict[str, Any]:
    params: dict[str, Any] = {"max_tokens": 100} if name == "length" and rng.random() < 0.8 else {}
    names = rng.sample(sorted(GOOD_PARAMETERS), rng.choice((0, 0, 0, 1, 2, 4)))
    for chosen in names:
        params[chosen] = rng.choice(GOOD_PARAMETERS[chosen] if rng.random() < 0.8 else ODD_VALUES)
    if rng.random() < 0.02:
        params[rng.choice(("unknown", "\ud800", "rollout", "self", ""))] = rng.choice(ODD_VALUES)
    return params


def _text(rng: random.Random) -> str:
    return rng.choice(TEXTS)(rng)


def _pieces(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 12)))


def _boxed(rng: random.Random) -> str:
    return rf"{_noise(rng)}\boxed{{{rng.choice(PIECES)}{rng.choice(('', rng.choice(PIECES)))}}}{_noise(rng)}"


def _boxes(rng: random.Random) -> str:
    numbers = (0, 10, 50, 100, 100.5, -3, 1e9, 1e12, True, "1", None)
    boxes = [
        {
            "bbox_2d": [rng.choice(numbers) for _ in range(rng.choice((4, 4, 4, 3)))],
            "label": rng.choice(("dog", "a", 3)),
        }
        for _ in range(rng.choice((0, 1, 2, 5, 30)))
    ]
    text = rng.choice((str, json.dumps))(boxes)
    if rng.random() < 0.3:
        text = _mutated(rng, text)
    return f"<think>\nx\n</think>\n<answer>\n{text}\n</answer>"


def _mutated(rng: random.Random, text: str) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + rng.choice(PIECES) + text[place + rng.randint(0, 5) :]


def _noise(rng: random.Random) -> str:
    return "".join(rng.choice(string.printable) for _ in range(rng.randint(0, 20)))


def _repeated(rng: random.Random) -> str:
    return rng.choice(PIECES) * rng.choice((100, 1000))


TEXTS: Sequence[Callable[[random.Random], str]] = (
    *(_pieces, _pieces, _boxed, _boxed, _boxed, _boxes, _boxes, _noise),
    lambda rng: _repeated(rng) if rng.random() < 0.1 else rng.choice(TRUTHS),
    lambda rng: _mutated(rng, rng.choice(TRUTHS)),
)
