r"""The final answer in a text: what stands in the last \boxed{…}, or the last number.

A model wrote the text, so reading it takes a time that grows with its length alone, and never raises.
"""

from __future__ import annotations

import re

MAX_ANSWER_CHARS = 400
"""A final answer longer than this is none."""
READ_CHARS = 20_000
"""So much of a text's end is searched for its final answer."""

BOX = re.compile(r"\\f?boxed[ \t]*\{|\\fbox[ \t]*\{")
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+])?"  # a sign, but not the minus of "5-3"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+(?:[ ]?/[ ]?[0-9]+)?|(?=\.[0-9]))(?:\.[0-9]+)?"
)
_INTEGER = re.compile(r"[-+]?[0-9]{1,200}")


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{…} (or \fbox{…}), or None where there is no whole one.

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


def last_number(text: str) -> str | None:
    """The last number, as it is written: an integer, a decimal or a fraction a/b; None where there is none.

    >>> last_number("about 1,250.5 apples"), last_number("5-3 = 2."), last_number("-3/4"), last_number("?")
    ('1250.5', '2', '-3/4', None)
    """
    found = _NUMBER.findall(text[-READ_CHARS:].replace("−", "-"))
    if not found or len(found[-1]) > MAX_ANSWER_CHARS:
        return None
    return str(found[-1]).replace(",", "").replace(" ", "")


def integer(text: str) -> int | None:
    """The value of a text that is an integer and nothing else, else None.

    >>> integer("033"), integer("-7"), integer("1/2"), integer("3.0")
    (33, -7, None, None)
    """
    plain = text.strip().strip("$").strip()
    return int(plain) if _INTEGER.fullmatch(plain) else None
