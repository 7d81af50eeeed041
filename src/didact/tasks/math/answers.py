r"""The final answers in a model's text: the contents of \boxed{…}.

Reading never raises and takes time linear in the length of the text.
"""

from __future__ import annotations

import re

from didact.tasks.math.notation import PLACEHOLDER
from didact.tasks.numbers import READ_CHARS

MAX_ANSWER_CHARS = 400
"""A longer text is no final answer."""

BOX = re.compile(r"\\f?boxed[ \t]*\{|\\fbox[ \t]*\{|\\boxed[ \t]*(?=[-+]?[.0-9]|[A-Z]\b)")


def boxes(text: str) -> list[str]:
    r"""The contents of the \boxed{…} and \fbox{…}, without those that only name the instruction.

    None of them where the last one does not end.

    >>> boxes(r"First \boxed{1}, no: \boxed{\frac{1}{2}}, as asked in \boxed{}."), boxes(r"\boxed 5.")
    (['1', '\\frac{1}{2}'], ['5.'])
    """
    end = text[-READ_CHARS:]
    found = [_content(end, opened) for opened in BOX.finditer(end)]
    whole = [box for box in found if box is not None and not PLACEHOLDER.fullmatch(box)]
    return [] if None in found[-1:] else whole


def boxed(text: str) -> str | None:
    """The content of the last box; None if there is none."""
    return next(reversed(boxes(text)), None)


def _content(end: str, opened: re.Match[str]) -> str | None:
    """What a box holds; None where it does not end."""
    start = opened.end()
    if not opened[0].endswith("{"):
        return re.split(r"[^-+.,/\w]", end[start : start + MAX_ANSWER_CHARS])[0]
    depth = 1
    for place in range(start, min(len(end), start + MAX_ANSWER_CHARS + 1)):
        escaped = end[place - 1] == "\\"
        if end[place] == "{" and not escaped:
            depth += 1
        elif end[place] == "}" and not escaped:
            depth -= 1
        if depth == 0:
            return end[start:place].strip()
    return None
