"""Patterns that decide whether a mention of a word, as 7 or B or "north", asserts that it is the answer.

"Step 7 is wrong", "you listed 7 words" and "your step B" only mention it; "it should be 7", "7, not 8" and
"option B is right" assert it. The patterns are for words that any critique may hold, and for words that
question or answer hold. They read the sentence around the mention, at most `REACH` characters on each side.
"""

from __future__ import annotations

import re

REACH = 90

_QUOTES = r"[\s\"'(\[{*_$:]*"
_ASIDE = (
    r"(?:\s+(?:in fact|actually|just|simply|exactly|really|indeed|therefore|thus|only|clearly|of course|"
    r"probably|definitely|in truth|precisely|plain|to|as|at|with|be|is|a|an|the|your|that|option|choice|"
    r"letter|value|number|answer|word|final|correct|right)){0,4}"
)
_NAMES = (
    r"(?:answer|result|solution|value|total|sum|output|count|difference|product|quotient|remainder|verdict|"
    r"option|choice|key|word|name|capital|truth|one|response|conclusion|figure|ratio|probability|area|length|"
    r"root|x|y|n|it|this|that)"
)
# "your answer is 7" quotes the student, "your answer should be 7" does not.
_ASSERTS = re.compile(
    rf"(?:(?<!your )(?<!you )\b{_NAMES}(?:\s+(?!not\b|no\b)[\w-]+){{0,4}}?\s*(?:\bis\b|'s\b|\bwas\b|=|:|->|"
    rf"=>|\bequals\b|\bremains\b)"
    r"|\b(?:should|must|ought to|needs? to|has to|have to|had to|supposed to|would|will|expected to)"
    r"(?:\s+(?:also|really|simply|instead|then|therefore|rather|have|always))?"
    r"\s+(?:be|been|get|got|read|say|said|equal|give|given|come|make|made|end up|see|find|found|arrive|"
    r"arrived|reach|reached|choose|chosen|pick|picked|select|selected|write|written|answer|answered|put|"
    r"be called|become|land|yield|yielded)"
    r"|\b(?:gives?|yields?|leaves?|makes?|equals?|totals?|becomes?|comes? (?:out )?(?:to|as|at)|amounts? to|"
    r"adds? up to|evaluates? to|simplif(?:y|ies) to|reduces? to|works? out (?:as|to|at|to be)|"
    r"turns? out (?:to be|as)|expected|expecting|obtain|reach|arrives? at|"
    r"(?<!did you )(?<!do you )(?<!could you )get|lands? (?:on|at)|correct (?:option|choice|answer|one|"
    r"letter|value|result|word)\W{0,3}|right (?:option|choice|answer|one|letter|value|result|word)\W{0,3}|"
    r"answer\W{1,3}|answer of|result of|total of|value of)"
    r"|(?<![<>!])(?:=|->|=>)"
    rf"){_ASIDE}{_QUOTES}\Z"
)
# "Choose B." asserts it; "write 4 digits" does not, so the clause has to end after the mention.
_DO = re.compile(
    rf"\b(?:choose|pick|select|go (?:with|for)|opt for|mark|circle|tick|take|use|write|put|say|answer|try|"
    rf"want|wanted|needed|replace (?:it|this|that|\S{{1,20}}) (?:with|by)|change (?:it|this|that|"
    rf"\S{{1,20}}) (?:in)?to|switch to|think of|consider|there (?:are|is|"
    rf"were))(?<!you want)(?<!you use)(?<!you say)(?<!you take){_ASIDE}{_QUOTES}\Z"
)
_ENDS = re.compile(
    r"[\"')\]}*_$]*\s*(?:[.,;:!?)]|\Z|\n|-|and\b|but\b|instead\b|rather\b|not\b|as\b|because\b|since\b|"
    r"here\b|in total\b|in all\b|altogether\b|for\b|there\b|next time\b|on\b|at\b)"
)
_IS_IT = re.compile(
    r"[\"')\]}*_$]*\s*(?:,\s*[\w ]{0,30},)?\s*(?:is|was|would be|would have been|must be|has to be|should be|"
    r"is indeed|should have been|alone is|really is|actually is)\s+"
    r"(?!not\b|n't|wrong|incorrect|false|no\b|the wrong|an? |neither)(?:\w+\s+){0,2}?(?:the\s+)?(?:only\s+|"
    r"one\s+|true\s+)?"
    r"(?:right|correct|answer|solution|best|true|result|expected|what|where|it\b|needed|wanted|accurate|"
    r"intended|chosen|picked|your answer|in order|due|called for|asked for|required|fits?|one that|the one)"
)
_NOT_OTHER = re.compile(
    r"[\"')\]}*_$]*\s*(?:,?\s*(?:and\s+)?not\s+(?!wrong|right|correct|enough|valid|quite|only|"
    r"a\b(?!\s?(?:[.,;!)]|\Z))|an\b|the\b)[\"'(]?[\w-]+"
    r"|,?\s*rather than\b|,?\s*instead\b|\s+(?:alone|only)?\s*(?:fits|works|holds|satisfies|follows|matches|"
    r"suffices|answers)\b)"
)
_NEGATED = re.compile(
    r"(?:\b(?:not|never|neither|nor|instead of|rather than|wrongly|without|rules? out|ruled out|eliminates?|"
    r"discard|exclude|than|except|unlike|avoid|drop|beyond|against)|n't)"
    rf"(?:\s+(?:be|option|choice|the|a|an|letter|use|pick|choose|say|write|just|to|number|with|"
    rf"by))*{_QUOTES}\Z"
)
_LABEL = re.compile(
    r"\b(?:steps?|lines?|parts?|sections?|questions?|problems?|cases?|points?|items?|pages?|chapters?|"
    r"figures?|fig|tables?|eqs?|equations?|rows?|columns?|paragraphs?|sentences?|words?|characters?|digits?|"
    r"positions?|places?|index|terms?|tests?|examples?|exercises?|notes?|rules?|theorems?|lemmas?|levels?|"
    r"phases?|stages?|turns?|rounds?|attempts?|versions?|weeks?|days?|years?|bullets?|footnotes?|clauses?|"
    r"claims?|cells?|nodes?|vertex|vertices|variables?|vitamin|types?|grades?|class|groups?|teams?|sets?|"
    r"plan|appendix|exhibit|entry|entries|iterations?|blocks?|formulas?|hints?|your|you|sides?|angles?|"
    r"events?|matrix|first|last|next|top|bottom|another|every|each|these|those|other|both|all|between|over|"
    r"under|least|most)"
    rf"\s*(?:no\.?|numbers?|#)?(?:\s*[\"'(]?\w{{1,3}}[\"')]?\s*(?:,|and|or|to|-|through)+)*{_QUOTES}\Z"
)
_CHOICE_LABEL = re.compile(rf"\b(?:options?|choices?|answers?|letters?|alternatives?){_QUOTES}\Z")
_BREAK = re.compile(r"[.!?;](?=\s|\Z)|\n")


def sentence(text: str, start: int, end: int) -> tuple[str, str]:
    """The sentence before and after a stretch, at most `REACH` characters each."""
    before, after = text[max(0, start - REACH) : start], text[end : end + REACH]
    cut = 0
    for m in _BREAK.finditer(before):
        cut = m.end()
    found = _BREAK.search(after)
    # The end itself is kept, because it ends the clause.
    return before[cut:], after[: found.end()] if found else after


def is_label(text: str, start: int, end: int) -> bool:
    """Whether a number or letter only labels a step, a line, a case …"""
    before, _ = sentence(text, start, end)
    return bool(_LABEL.search(before))


def asserts_as_answer(text: str, start: int, end: int, *, choice: bool = False) -> bool:
    """Whether a stretch is asserted to be the answer.

    Args:
        text: A folded text.
        start: First character of the mention.
        end: One past its last character.
        choice: The mention is the letter of one of several options.

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
        return bool(_IS_IT.match(after) or _NOT_OTHER.match(after) or _asserted(named + " ", after))
    if _LABEL.search(before):
        return False
    return bool(_IS_IT.match(after) or _NOT_OTHER.match(after) or _asserted(before, after))


def _asserted(before: str, after: str) -> bool:
    return bool(_ASSERTS.search(before) or (_DO.search(before) and _ENDS.match(after)))
