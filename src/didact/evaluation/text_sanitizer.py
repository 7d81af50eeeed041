"""Text that a model, a critic or a file wrote, made safe to look at in a page or a terminal."""

from __future__ import annotations

import re
import unicodedata

_ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles and links
    r"|\x1b[@-_]"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_KEPT = frozenset("\n\t\u200c\u200d")  # the two joiners belong to many scripts and to emoji
_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])


def plain_text(text: str, limit: int = 4_000) -> str:
    """Strip terminal escapes and make every other invisible or reordering character visible.

    This does not escape HTML: the template does, once.

    Args:
        text: Anything, half surrogate pairs included.
        limit: Longer texts are cut there, and say so.

    >>> plain_text("\\x1b[31mred\\x1b[0m \\u202eevil\\x07")
    'red ⟨U+202E⟩evil␇'
    """
    shown = _ANSI.sub("", text.replace("\r\n", "\n"))
    if len(shown) > limit:
        shown = f"{shown[:limit]}… ({len(shown) - limit:,} more characters)"
    return "".join(_visible(char) for char in shown)


def plain_name(text: str, limit: int = 40) -> str:
    """`plain_text` on one line, for names; a long one ends in "…".

    >>> plain_name("two\\nlines"), plain_name("x" * 50, limit=3)
    ('two lines', 'xxx…')
    """
    shown = " ".join(plain_text(text).split())
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


def _visible(char: str) -> str:
    if char in _KEPT or unicodedata.category(char) not in _HIDDEN:
        return char
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
