"""The environment: while the policy calls the calculator, it is told the result and goes on.

The policy calls by ``<calc>37*54</calc>``; its turn ends there, and the result is the next turn, of the role ``tool``.
"""

import operator
import re

from tristream.producer.environments.contract import Client, Sample

CALL_END = "</calc>"
CALL = re.compile(r"<calc>(.*)</calc>", re.DOTALL)
EXPRESSION = re.compile(r"\s*(\d{1,6})\s*([-+*])\s*(\d{1,6})\s*", re.ASCII)
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
MAX_CALLS = 2


def calculate(expression: str) -> str:
    """The value of two whole numbers and a sign between them, or ``error``.

    Example:
        >>> calculate("37*54"), calculate("37*")
        ('1998', 'error')
    """
    match = EXPRESSION.fullmatch(expression)
    return str(OPERATORS[match[2]](int(match[1]), int(match[3]))) if match else "error"


async def rollout(client: Client, _sample: Sample) -> None:
    """Let the policy answer, with at most two calls of the calculator; what it says last is judged."""
    for _ in range(MAX_CALLS):
        answer = await client.answer(stop=[CALL_END])
        call = CALL.search(answer.text)
        if call is None:
            return
        client.add("tool", calculate(call[1]))
    await client.answer()
