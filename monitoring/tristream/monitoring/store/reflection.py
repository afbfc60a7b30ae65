"""Reflection words in responses: what V-Triune counts to watch reasoning emerge.

The fifteen words come from MAYE (arXiv 2504.02587). They are matched as whole words with their
inflections, so that "waiter" and "await" are not "wait".
"""

import re
from collections import Counter

REFLECTION_WORDS = (
    "re-check", "re-evaluate", "re-examine", "re-think", "recheck", "reevaluate", "reexamine", "reevaluation",
    "rethink", "check again", "think again", "try again", "verify", "wait", "yet",
)  # fmt: skip

_PATTERN = re.compile(r"\b(" + "|".join(sorted(REFLECTION_WORDS, key=len, reverse=True)) + r")(?:s|d|ed|ing)?\b")


def count_reflection_words(text: str) -> dict[str, int]:
    """Occurrences of each reflection word that occurs.

    Example:
        >>> count_reflection_words("Wait, the waiter is waiting. Let me re-check.")
        {'wait': 2, 're-check': 1}
    """
    found = _PATTERN.findall(text.lower())
    return dict(Counter(found)) if found else {}
