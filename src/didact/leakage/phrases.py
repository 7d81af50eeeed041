"""Phrases that assert an answer, and phrases that mention a critique.

"Step 7 is wrong", "you listed 7 words" and "your step B" only mention a word; "it should be 7", "7, not 8"
and "option B is right" assert that it is the answer. The patterns of assertion are for words that any
critique may hold, and for words that question or answer hold. They read the sentence around the mention, at
most `REACH` characters on each side.

An answer has to be complete without its critique: "as the feedback notes" in a revision shows that it depends
on text that is absent at evaluation. "Feedback" as a subject of its own, as in a feedback loop or an
amplifier's feedback, is not a mention.
"""

from __future__ import annotations

import re

from didact.leakage.vocabulary import MENTIONS, pattern

REACH = 90

_ASSERTS, _DO, _ENDS = pattern("asserts"), pattern("do"), pattern("ends")
_IS_IT, _NOT_OTHER, _NEGATED = pattern("is_it"), pattern("not_other"), pattern("negated")
_LABEL, _CHOICE_LABEL = pattern("label"), pattern("choice_label")
_BREAK = re.compile(r"[.!?;](?=\s|\Z)|\n")


def mentions_critique(answer: str) -> bool:
    """Whether an answer mentions its critique or a previous attempt.

    >>> mentions_critique("As the feedback notes, I forgot to carry the one.")
    True
    >>> mentions_critique("The feedback loop keeps the amplifier stable.")
    False
    """
    plain = " ".join(answer.replace("’", "'").replace("**", "").split())
    return any(form.search(plain) for form in MENTIONS)


def sentence(text: str, start: int, end: int) -> tuple[str, str]:
    """The sentence before and after a stretch, at most `REACH` characters each."""
    before, after = text[max(0, start - REACH) : start], text[end : end + REACH]
    cut = max((m.end() for m in _BREAK.finditer(before)), default=0)
    found = _BREAK.search(after)
    # The end itself is kept, because it ends the clause.
    return before[cut:], after[: found.end()] if found else after


def is_label(text: str, start: int, end: int) -> bool:
    """Whether a number or letter only labels a step, a line, a case …"""
    before, _ = sentence(text, start, end)
    return bool(_LABEL.search(before))


def asserts_as_answer(text: str, start: int, end: int, *, choice: bool = False) -> bool:
    """Whether a stretch of a folded text, or an option's letter (`choice`), is asserted to be the answer.

    >>> text = "step 7 is wrong, and it should be 8"
    >>> asserts_as_answer(text, 5, 6), asserts_as_answer(text, 34, 35)
    (False, True)
    """
    before, after = sentence(text, start, end)
    if _NEGATED.search(before):
        return False
    if not re.search(r"\w", before + after):
        return True  # the mention is the whole sentence
    if choice and _CHOICE_LABEL.search(before):
        named = before[: before.rfind(" ", 0, len(before.rstrip()))] if " " in before.rstrip() else ""
        if _NEGATED.search(named):
            return False
        before = named + " "
    elif _LABEL.search(before):
        return False
    return bool(
        _IS_IT.match(after)
        or _NOT_OTHER.match(after)
        or _ASSERTS.search(before)
        or (_DO.search(before) and _ENDS.match(after))
    )
