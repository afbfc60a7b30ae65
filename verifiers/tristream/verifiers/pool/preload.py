"""Loads the built-in verifiers before children are forked, so that each starts warm."""

from collections.abc import Iterable
from io import BytesIO

from tristream.runtime.errors import UserError
from tristream.verifiers.contract import Rollout
from tristream.verifiers.loading import load_definition
from tristream.verifiers.pool.judging import Judge
from tristream.verifiers.pool.messages import pack_task, read_frame
from tristream.verifiers.pool.tasks import Task

EXAMPLES = tuple(
    Rollout(text=rf"So it is $\boxed{{{answer}}}$.", ground_truth=rf"\boxed{{{truth}}}")
    for truth, answer in (
        (r"\frac{1}{2}", "0.5"),
        (r"\frac{3}{4}", r"\frac{6}{8}"),
        (r"\frac{7}{12}", r"\dfrac{5}{12}"),
        ("12", "12.0"),
        ("-3.75", r"-\frac{15}{4}"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("3x^2-5x+2", "2-5x+3x^2"),
        (r"30^{\circ}", "30"),
        (r"5\text{ cm}", "5"),
        (r"25\%", "0.25"),
        (r"2\pi", r"\frac{4\pi}{2}"),
        ("x=4", "4"),
        ("(1,2)", "(1, 3)"),
        (r"\{1,2\}", r"\{2,1\}"),
        (r"[0,1)\cup(2,3]", "[0,1]"),
        ("2^{10}", "1024"),
        (r"\log_2 8", "3"),
        (r"\text{triangle}", "triangle"),
        ("red", "blue"),
        (r"\text{red}", "green"),
        ("main street", "broad street"),
        ("open all day", "closed"),
        ("x^2-9", "(x-3)(x+3)"),
        ("x^2-9", "x^2+9"),
        (r"3\sqrt{2}", r"3\sqrt{5}"),
        (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt{2}}{2}"),
        (r"45^\circ", r"60^\circ"),
    )
)
"""Kinds of answers: the parsers of LaTeX and sympy learn as they go, and what they have learned is forked too."""


def preload(names: Iterable[str]) -> None:
    """Load built-in verifiers, by ``NAME@VERSION``, and judge the examples with each, whatever comes of it."""
    for name in names:
        try:
            definition = load_definition("", name)
        except UserError:  # the child says it to the pool
            continue
        judge = Judge({name: definition}, {name: definition.limits.memory_mib})
        for example in EXAMPLES:
            task = Task(verifier=name, rollouts=(example,))
            _, content, blobs = read_frame(BytesIO(pack_task(1, task, with_images=True)))
            judge.judge(content, blobs, on_truth=lambda: None)
