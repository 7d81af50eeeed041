r"""The final answer in a model's text: the content of the last \boxed{…}, or an integer.

Reading never raises and takes time linear in the length of the text.
"""

from __future__ import annotations

import re

from didact.tasks.numbers import READ_CHARS

MAX_ANSWER_CHARS = 400
"""A longer text is no final answer."""

BOX = re.compile(r"\\f?boxed[ \t]*\{|\\fbox[ \t]*\{")
_INTEGER = re.compile(r"[-+]?[0-9]{1,200}")


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{…} (or \fbox{…}); None if there is no complete one.

    >>> boxed(r"First \boxed{1}, no: \boxed{\frac{1}{2}}."), boxed("42"), boxed(r"\boxed{4")
    ('\\frac{1}{2}', None, None)
    """
    end = text[-READ_CHARS:]
    opened = list(BOX.finditer(end))
    if not opened:
        return None
    start = opened[-1].end()
    depth = 1
    for place in range(start, min(len(end), start + MAX_ANSWER_CHARS + 1)):
        escaped = end[place - 1] == "\\"
        if end[place] == "{" and not escaped:
            depth += 1
        elif end[place] == "}" and not escaped:
            depth -= 1
        if depth == 0:
            return end[start:place].strip() or None
    return None


def integer(text: str) -> int | None:
    """The value of a text that is only an integer, else None.

    >>> integer("033"), integer("-7"), integer("1/2"), integer("3.0")
    (33, -7, None, None)
    """
    plain = text.strip().strip("$").strip()
    return int(plain) if _INTEGER.fullmatch(plain) else None
