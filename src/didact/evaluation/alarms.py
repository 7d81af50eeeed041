"""Alarms: what looks wrong with a run, from the lines of its metrics.jsonl alone.

    collapse                  entropy fell and answers stay wrong, lengths fell, or answers repeat themselves
    no-op                     no update ever had a gradient
    flat feedback             the critiques are all the same, so they say nothing about an answer
    train up, held-out down   better on training problems, worse on the others

An alarm is a reason to look, not a verdict. A run looks at its own metrics after every line of them
(training/monitors.py). The keys that are looked at: `entropy` (nats a token),
`length_first` (tokens), `repeated_first` (a share of text), `critiques` and `distinct_critiques`
(counts), `correct_first`, `grad_norm`, and an evaluation's `accuracy` with `n`. A line without a key is
passed over.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

Record: TypeAlias = Mapping[str, Any]
"""A line of metrics.jsonl."""
Name: TypeAlias = Literal["collapse", "no-op", "flat feedback", "train up, held-out down"]

WINDOW = 5
"""Steps that a beginning or an end is averaged over, at most a third of the run."""
LEAST = 6
"""Steps below which a trend is not spoken of, and critiques a step below which they may be alike."""
FELL = 0.25
"""Entropy or length that is left of the beginning's, below which it has collapsed; of entropy, times the
share of answers that are wrong."""
SURE = 0.5
"""Share of right first answers from which a policy may be as sure as it likes."""
REPEATS = 0.5
"""Share of repeated text from which answers repeat themselves …"""
MORE_REPEATS = 0.2
"""… if it has risen by so much."""
IDLE = 10
"""Steps without a gradient after which a run that goes on is a no-op; at its end, any number is."""
DISTINCT = 0.05
"""Share of different critiques, down to which feedback is flat; a single one a step always is."""
RISE = 0.05
"""Rise of training accuracy that counts as one."""
SERIES = ("correct_first", "entropy", "length_first", "repeated_first")
"""Metrics of which the first and the last values are looked at."""
_NGRAM = 4  # words, or characters of a text without spaces


class Alarm(NamedTuple):
    """Something to look at."""

    name: Name
    step: int
    """The last step that it was seen at; of a run that watched itself, the step after which it was first."""
    message: str
    """What was seen, in numbers, and where to look."""
    key: str
    """The metric that shows it. A kind of alarm is a name with a key."""
    stands: bool = True
    """Is it still so at the end of what was looked at?"""


class Metrics:
    """What the alarms look at in a run's metrics, kept line by line in bounded space.

    Args:
        records: Lines of metrics.jsonl, in order.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.steps = 0
        self.updates = 0
        """Steps that measured a gradient."""
        self.moved = False
        """Had any of them one?"""
        self.last_step = 0
        self.series = {key: _Series() for key in SERIES}
        self.critiques: deque[tuple[int, int, int]] = deque(maxlen=WINDOW)
        """(step, critiques, distinct ones) of the last steps with critiques."""
        self.best: Mapping[str, Any] | None = None
        """The best evaluation before the last one."""
        self.held: tuple[int, Mapping[str, Any]] | None = None
        """The last evaluation and its step."""
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """One more line."""
        step = int(record["step"])
        if record.get("critiques"):
            self.critiques.append((step, record["critiques"], record["distinct_critiques"]))
        if "eval" in record:
            before = self.held[1] if self.held else None
            if before and (self.best is None or before["accuracy"] > self.best["accuracy"]):
                self.best = before
            self.held = step, record["eval"]
            return
        self.steps += 1
        self.last_step = step
        self.updates += "grad_norm" in record
        self.moved |= record.get("grad_norm", 0) > 0
        for key, series in self.series.items():
            if record.get(key) is not None:
                series.add(step, float(record[key]))


def alarms(
    records: Iterable[Record] | Metrics, *, ended: bool = True, flat_by_design: bool = False
) -> list[Alarm]:
    """Every alarm that a run's metrics raise, at most one of each kind.

    Args:
        records: The lines of metrics.jsonl, in order, or what was kept of them.
        ended: Is that all of them? While a run goes on, `IDLE` steps may pass without an update.
        flat_by_design: The critiques are identical on purpose, as under a control with a fixed sentence; no
            `flat feedback` is raised then.
    """
    metrics = records if isinstance(records, Metrics) else Metrics(records)
    found = [*collapse(metrics), *train_up_held_out_down(metrics)]
    if ended or metrics.steps >= IDLE:
        found += no_op(metrics)
    return found if flat_by_design else [*found, *flat_feedback(metrics)]


def collapse(metrics: Metrics) -> list[Alarm]:
    """Entropy or length of first answers fell to a quarter of the beginning's, or they repeat themselves.

    A policy grows sure of what it has learned: entropy may fall as the share of wrong answers falls, and is
    not looked at once most are right.
    """
    found = []
    right = metrics.series["correct_first"].ends
    wrong = 1.0 if right is None else 1.0 - right.last
    needed = {"entropy": FELL * wrong if wrong > 1 - SURE else 0.0, "length_first": FELL}
    for key, what in (("entropy", "entropy"), ("length_first", "mean length of first answers")):
        ends = metrics.series[key].ends
        if ends is not None and ends.last < needed[key] * ends.first:
            message = f"{what} fell from {ends.first:.3g} to {ends.last:.3g}: read the last rollouts"
            found.append(Alarm("collapse", ends.step, message, key))
    ends = metrics.series["repeated_first"].ends
    if ends is not None and ends.last >= REPEATS and ends.last - ends.first >= MORE_REPEATS:
        message = f"{ends.last:.0%} of the answers' text repeats itself, {ends.first:.0%} at the beginning"
        found.append(Alarm("collapse", ends.step, message, "repeated_first"))
    return found


def no_op(metrics: Metrics) -> list[Alarm]:
    """No step made an update, or none of the updates had a gradient."""
    if not metrics.steps or metrics.moved:
        return []
    why = "all gradients were 0" if metrics.updates else "no step had anything to learn from"
    message = f"nothing was trained in {metrics.steps} steps: {why}"
    return [Alarm("no-op", metrics.last_step, message, "grad_norm")]


def flat_feedback(metrics: Metrics) -> list[Alarm]:
    """The critiques of a step are all the same, or nearly so, in the last steps."""
    seen = metrics.critiques
    asked = sum(critiques for _, critiques, _ in seen)
    distinct = sum(different for _, _, different in seen)
    if asked < LEAST * len(seen) or distinct > max(len(seen), DISTINCT * asked) or not seen:
        return []
    message = (
        f"{distinct} different critiques, counted step by step, among the last {asked}: they cannot tell "
        "answers apart"
    )
    return [Alarm("flat feedback", seen[-1][0], message, "distinct_critiques")]


def train_up_held_out_down(metrics: Metrics) -> list[Alarm]:
    """Training accuracy rose while the last evaluation is surely below the best one before.

    Surely: the difference is more than 2.6 standard errors (99 %), because the best of several
    evaluations is always a little lucky.
    """
    train, best = metrics.series["correct_first"].ends, metrics.best
    if train is None or train.last - train.first < RISE or metrics.held is None or best is None:
        return []
    step, last = metrics.held
    fall = best["accuracy"] - last["accuracy"]
    variance = sum(e["accuracy"] * (1 - e["accuracy"]) / e["n"] for e in (best, last))
    if fall <= 0 or fall <= 2.6 * math.sqrt(variance):
        return []
    message = (
        f"training accuracy rose from {train.first:.1%} to {train.last:.1%}, held-out accuracy fell from "
        f"{best['accuracy']:.1%} to {last['accuracy']:.1%}: take an earlier checkpoint, or more problems"
    )
    return [Alarm("train up, held-out down", step, message, "accuracy")]


def repeated_share(text: str) -> float:
    """The share of a text's 4-grams that stood in it before, in [0, 1]; of words, or of characters.

    >>> repeated_share("a b c d e f"), repeated_share("no no no no no no no")
    (0.0, 0.75)
    """
    units: Sequence[str] = text.split()
    if len(units) < 2:
        units = text.strip()
    grams = [tuple(units[i : i + _NGRAM]) for i in range(len(units) - _NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class _Ends(NamedTuple):
    first: float
    last: float
    step: int


class _Series:
    """A metric's first and last values."""

    def __init__(self) -> None:
        self.count = self.step = 0
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=WINDOW)

    def add(self, step: int, value: float) -> None:
        self.count, self.step = self.count + 1, step
        if len(self.first) < WINDOW:
            self.first.append(value)
        self.last.append(value)

    @property
    def ends(self) -> _Ends | None:
        """Means over the first and over the last steps; None where too few have the metric."""
        if self.count < LEAST:
            return None
        n = min(WINDOW, self.count // 3)
        return _Ends(float(np.mean(self.first[:n])), float(np.mean(list(self.last)[-n:])), self.step)
