"""Are self-critiques true? Where one calls its answer right or wrong, the verifier knows better.

A policy that calls everything wrong is true about every wrong answer, so right and wrong answers are
counted apart. A statement about a step or a digit is no verdict, and a critique with both verdicts has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from didact.types import Rollout

_ANSWER = r"(?:answer|solution|attempt|program|response|reply|result|code)"
_IS = r"(?:is|was|looks|seems|appears)(?: to be)?"
_SURELY = (
    r"(?:(?:absolutely|already|also|clearly|completely|entirely|exactly|fully|however|indeed|perfectly|quite|"
    r"simply|still|therefore|thus|totally|unfortunately),? )*"
)
_SAYS = re.compile(
    rf"\b{_ANSWER},?(?: \S{{1,40}})? {_IS}(?P<negated>n't| not)?,? {_SURELY}"
    r"(?P<nearly>(?:almost|nearly|partly|partially|mostly|half|only \w+)[ -])?"
    r"(?:(?P<right>right|correct|accurate)\b(?=\W*$|\W{0,2} (?:and|as|because|since)\b)"
    r"|(?P<wrong>wrong|incorrect|inaccurate|mistaken|false)\b)",
    re.IGNORECASE,
)
_PASSES = re.compile(r"\bpasses (?P<passed>\d+) of (?P<tests>\d+) tests\b", re.IGNORECASE)
_OPEN = re.compile(r"\b(?:if|whether|unless|until|when|sure|ensure|check|verify)\b", re.IGNORECASE)
"""A verdict after one of these, in the same sentence, is asked about or supposed."""
_SENTENCE = re.compile(r"(?<=[.!?:;\n])\s+")


def stated_verdict(critique: str) -> bool | None:
    """Whether a critique calls the answer right (True) or wrong (False); None for neither, or both.

    >>> stated_verdict("Your previous attempt was incorrect."), stated_verdict("The answer is right.")
    (False, True)
    >>> stated_verdict("Check whether the answer is right.") is None
    True
    """
    said = set()
    for sentence in _SENTENCE.split(critique.replace("’", "'").strip()):
        for found in _PASSES.finditer(sentence):
            said.add(int(found["passed"]) >= int(found["tests"]))
        for found in _SAYS.finditer(sentence):
            if not sentence.endswith("?") and not _OPEN.search(sentence[: found.start()]):
                said.add((found["right"] is not None) != bool(found["negated"] or found["nearly"]))
    return said.pop() if len(said) == 1 else None


def calibration(rollouts: Iterable[Rollout]) -> dict[str, float]:
    """How true the critiques are that the policy wrote itself, by the verifier's word.

    Returns:
        Shares in [0, 1]; one of nothing is left out. `own_verdict_said`: of its critiques of verified
        answers, those that call the answer right or wrong. `own_verdict_true`: of these, the true ones;
        with `_on_right` and `_on_wrong`, of right and of wrong answers alone.
    """
    verdicts = [
        (stated_verdict(said.text), rollout.turns[said.turn].correct)
        for rollout in rollouts
        for said in rollout.feedback
        if said.source == "self"
        and said.ok
        and said.turn < len(rollout.turns)
        and rollout.turns[said.turn].reward is not None
    ]
    stated = [(verdict, correct) for verdict, correct in verdicts if verdict is not None]
    found = {
        "own_verdict_said": [verdict is not None for verdict, _ in verdicts],
        "own_verdict_true": [verdict == correct for verdict, correct in stated],
        "own_verdict_true_on_right": [verdict for verdict, correct in stated if correct],
        "own_verdict_true_on_wrong": [not verdict for verdict, correct in stated if not correct],
    }
    return {name: sum(values) / len(values) for name, values in found.items() if values}
