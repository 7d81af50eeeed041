"""What the leak meter compares (critique, forms of the reference, what is known already), and its result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, TypeAlias

from didact.leakage.numbers import Number
from didact.leakage.phrases import asserts_as_answer
from didact.leakage.text import Place, Text, Word, alone, places

_FINAL = re.compile(r"####[ \t]*(\S[^\n]{0,200})|\\boxed\{([^{}]{1,200})\}")
_LETTER = re.compile(r"\W{0,3}(?:(?:option|choice|answer)\W{1,3})?([A-J])\W{0,3}", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(r"[(\[]?([A-J])[).:\]]\s+(\S.{1,200})", re.DOTALL)
_OPTION = re.compile(
    r"(?:^|(?<=\s))[(\[]?([A-Ja-j])[).:\]]\s{0,3}(\S[^\n]{0,200}?)(?=[,;]?\s{1,3}[(\[]?[A-Ja-j][).:\]]\s|"
    r"[\n,;]|\s{0,3}\Z)",
    re.MULTILINE,
)
_NOT_OF_A_NUMBER = re.compile(r"[a-z]{2,}|[^\W\d_a-z]|[<>^]|\w\s?[-*/+]|\b(?!x\b|y\b|z\b|n\b)[a-z]\b\s*=")
_UNIT_WORDS, _CACHED_CHARS = 2, 4000

_cached_text = lru_cache(maxsize=512)(Text)


def _text(source: str) -> Text:
    """A text that several queries may share, as the answers of one problem share its question."""
    return _cached_text(source) if len(source) <= _CACHED_CHARS else Text(source)


LeakKind: TypeAlias = Literal["verbatim", "number", "spelled", "partial", "judge"]
"""verbatim: the answer up to case, punctuation and markup. number: its value in another form (dates too).
spelled: character by character or word by word. partial: most of it. judge: found by a model."""

PARTIAL_SHARE = 0.6
"""From this share of the reference on, beyond what question and answer hold, a part of it is a leak."""


class Evidence(NamedTuple):
    """A place in a critique that gives the answer away: `quote == critique[start:end]`."""

    start: int
    """First character, in Unicode code points."""
    end: int
    """One past the last character."""
    quote: str


class Leak(NamedTuple):
    """The result for one critique.

    >>> Leak().leaks, Leak().quote
    (False, '')
    """

    leaks: bool = False
    kind: LeakKind | None = None
    """None without a leak."""
    evidence: tuple[Evidence, ...] = ()
    """Every stretch that gives the answer away, ordered and disjoint; empty without a leak."""
    overlap: float = 0.0
    """The share of the reference that is given away, in [0, 1], beyond what question and answer hold. It may
    lie between 0 and `PARTIAL_SHARE` without a leak."""

    @property
    def quote(self) -> str:
        """The first evidence; empty without a leak."""
        return self.evidence[0].quote if self.evidence else ""

    @classmethod
    def at(cls, kind: LeakKind, critique: str, spans: Iterable[Place], overlap: float = 1.0) -> Leak:
        """A leak with its evidence; spans that touch or overlap are joined."""
        merged: list[Place] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return cls(True, kind, tuple(Evidence(s, e, critique[s:e]) for s, e in merged), overlap)


@dataclass(frozen=True)
class Reference:
    """One form of the answer."""

    text: Text
    letter: str | None = None
    """Set if it is the letter of one of several options."""

    @cached_property
    def number(self) -> Number | None:
        """Its value if it is one number, with a unit of at most two words or as in "x = 7"."""
        if self.letter or len(self.text.source) > 200:
            return None
        found = [n for n in self.text.numbers if not n.operands]
        if not found:
            return None
        widest = max(found, key=lambda n: (n.end - n.start, -n.start))
        if any(n.start >= widest.end or n.end <= widest.start for n in found):
            return None
        before, after = self.text.text[: widest.start], self.text.text[widest.end :]
        longer = (
            _NOT_OF_A_NUMBER.search(before)
            or len(re.findall(r"[a-z]+", before)) > 1
            or re.search(r"[-+=*/<>^:\d]", after)
            or len(re.findall(r"[^\W\d_]+", after)) > _UNIT_WORDS
            or (after[:1].isalpha() and widest.worded)
        )
        return None if longer else widest

    @cached_property
    def is_math(self) -> bool:
        """Whether it is an equation or a term: operators, numbers and single letters, and few words."""
        tokens = [w.text for w in self.text.math]
        operators = [t for t in tokens if t in "+-=/^<>"]
        atoms = [t for t in tokens if t[0].isdigit() or (len(t) == 1 and t.isalpha())]
        long = [t for t in tokens if len(t) > 4 and t.isalpha()]
        return bool(operators) and len(atoms) >= 2 and len(long) <= 1 and len(tokens) <= 60


class LeakQuery:
    """A critique, the private reference, and the question and answer, which the student knows."""

    def __init__(self, critique: str, reference: str, question: str = "", answer: str = "") -> None:
        self.critique = Text(critique)
        self.reference = reference.strip()
        self.question = _text(question)
        self.answer = _text(answer)
        self.known = self.question, self.answer
        """What the student knows already."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no critique or no reference, and so no leak."""
        return not (self.critique.source.strip() and self.reference)

    def leak(self, kind: LeakKind, found: Iterable[Place], overlap: float = 1.0) -> Leak:
        """A leak at places of the folded critique."""
        spans = [self.critique.span(start, end) for start, end in found]
        return Leak.at(kind, self.critique.source, spans, overlap)

    def is_known(self, words: Sequence[Word]) -> bool:
        """Whether question or answer hold these words."""
        return any(places(words, side.content) for side in self.known)

    @cached_property
    def references(self) -> list[Reference]:
        """The reference as it is, its final answer, and the option that it names."""
        finals = [(m[1] or m[2]).strip() for m in _FINAL.finditer(self.reference)]
        forms = [Reference(_text(text), self._letter(text)) for text in (self.reference, *finals[-1:])]
        options = self._options
        both = _LETTER_AND_TEXT.fullmatch(self.reference)
        if forms[0].letter in options:
            forms.append(Reference(_text(options[forms[0].letter])))
        elif both:
            forms += [Reference(_text(both.group(1)), both.group(1).lower()), Reference(_text(both.group(2)))]
        else:
            wanted = self.reference.strip(" .").casefold()
            same = [k for k, text in options.items() if text.strip(" .").casefold() == wanted]
            if len(same) == 1:
                forms.append(Reference(_text(same[0].upper()), same[0]))
        return forms

    @cached_property
    def _options(self) -> dict[str, str]:
        """The question's options by letter; empty if they do not start with A and B."""
        if len(self.question.source) > 20_000:
            return {}
        found = {m.group(1).lower(): m.group(2).strip() for m in _OPTION.finditer(self.question.source)}
        return found if {"a", "b"} <= found.keys() else {}

    def _letter(self, text: str) -> str | None:
        m = _LETTER.fullmatch(text)
        if m is None or (m.group(1).islower() and text == m.group(1) and not self._options):
            return None
        return m.group(1).lower()

    @cached_property
    def settled(self) -> bool:
        """Whether the student's answer gives the reference already, so that no critique can leak it."""
        return any(self._gives(form) for form in self.references)

    def _gives(self, form: Reference) -> bool:
        answer = self.answer
        if not answer.text.strip():
            return False
        if form.letter:
            return _gives_letter(answer, form.letter)
        if form.number is not None and self.answer.numbers:
            last = [n for n in self.answer.numbers if not n.operands][-1:]
            if last and set(last[0].values) & set(form.number.values):
                return True
        if form.is_math:
            return bool(form.text.math) and _tail(answer.math, form.text.math)
        wanted = form.text.content
        if not wanted:
            return self.reference == answer.source.strip()
        if _tail(answer.content, wanted):
            return True
        return any(
            asserts_as_answer(answer.text, answer.content[i].start, answer.content[j - 1].end)
            for i, j in places(wanted, answer.content)[:20]
        )


def _tail(words: list[Word], wanted: list[Word]) -> bool:
    return [w.text for w in words[-len(wanted) :]] == [w.text for w in wanted]


def _gives_letter(answer: Text, letter: str) -> bool:
    words = answer.words
    if len(words) <= 3 and any(w.text == letter for w in words):
        return True
    # "B) Rome", and "… so the answer is B"
    if words and words[0].text == letter and answer.text[words[0].end : words[0].end + 1] in tuple(").:,"):
        return True
    return any(
        w.text == letter
        and alone(answer.text, w.start, w.end)
        and asserts_as_answer(answer.text, w.start, w.end, choice=True)
        for w in words[:2000]
    )
