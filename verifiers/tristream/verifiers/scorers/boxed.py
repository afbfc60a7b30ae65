r"""Finding final answers written as ``\boxed{...}``."""

import re

BRACE_PATTERN = re.compile(r"\\boxed\{|\\[{}]|[{}]")
TEXT_PATTERN = re.compile(r"^\\text\{([^{}]*)\}$")


def find_boxed(text: str) -> list[str | None]:
    r"""The content of each ``\boxed{``, outermost braces balanced; None where the brace never closes.

    Example:
        >>> find_boxed(r"\boxed{1} and \boxed{\frac{1}{2}} and \boxed{3")
        ['1', '\\frac{1}{2}', None]
    """
    contents: list[str | None] = []
    opened: list[tuple[int, int] | None] = []  # for each open brace: index in contents and begin, if it is boxed
    for match in BRACE_PATTERN.finditer(text):
        brace = match.group()
        if brace == "{":
            opened.append(None)
        elif brace == "}" and opened:
            boxed = opened.pop()
            if boxed is not None:
                contents[boxed[0]] = text[boxed[1] : match.start()]
        elif brace.startswith("\\boxed"):
            opened.append((len(contents), match.end()))
            contents.append(None)
    return contents


def last_boxed(text: str) -> str | None:
    r"""The content of the last well-formed ``\boxed{...}``, without an enclosing ``\text{...}``."""
    closed = [content for content in find_boxed(text) if content is not None]
    return plain_text(closed[-1]) if closed else None


def has_one_boxed(text: str) -> bool:
    r"""Whether there is exactly one ``\boxed{`` and it is closed."""
    contents = find_boxed(text)
    return len(contents) == 1 and contents[0] is not None


def plain_text(content: str) -> str:
    r"""Content stripped of outer white space and of one ``\text{...}`` around it."""
    match = TEXT_PATTERN.match(content.strip())
    return (match.group(1) if match else content).strip()


def truth_text(ground_truth: str) -> str:
    r"""A truth given as ``\boxed{...}`` or bare."""
    boxed = last_boxed(ground_truth)
    return plain_text(ground_truth) if boxed is None else boxed
