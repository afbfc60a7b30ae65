"""Tags that an answer is asked to wear."""

FORMAT_TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
"""Each one that occurs exactly once is worth a quarter of the format, as in V-Triune."""


def tag_format(text: str) -> float:
    """A quarter for each of the four tags, line breaks included, that occurs exactly once."""
    return sum(text.count(tag) == 1 for tag in FORMAT_TAGS) / len(FORMAT_TAGS)
