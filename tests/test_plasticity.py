"""Plasticity: repeats, distances and gains of known dialogues, and intervals over problems."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.battery.plasticity import critique_gains, edit_distance, moves, plasticity
from didact.errors import DataError
from didact.evaluation.stats import clustered_mean
from didact.rendering.renderer import Renderer
from didact.rollouts.base import conversation
from didact.rollouts.tutored_dialogue import public_contexts
from didact.spans.fuzzy import levenshtein
from didact.types import Feedback, Problem, Rollout, Turn
from tests.bigram import Bigram
from tests.helpers import CRITIC

WORDS = st.text("abc ", max_size=12)


def rollout(*answers: str, reference: str | None = "nus", name: str = "p", failed: int = -1) -> Rollout:
    """A dialogue in which every answer but the last is criticised; critique `failed` failed."""
    turns = tuple(
        Turn(
            prompt_ids=(1,), completion_ids=(2,), logprobs=None, text=text, stop_reason="eos",
            reward=float(text == reference),
        )
        for text in answers
    )  # fmt: skip
    feedback = tuple(
        Feedback(
            turn=h, text="" if h == failed else f"mend {h}", source="program", saw_reference=True,
            provenance=CRITIC, status="failed" if h == failed else "ok", error="x" if h == failed else None,
        )
        for h in range(len(answers) - 1)
    )  # fmt: skip
    problem = Problem.ask("sun?", id=name, reference=reference)
    return Rollout(id=name, group=name, problem=problem, turns=turns, feedback=feedback)


def slow_edits(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, before = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (x != y)))
    return row[-1]


@given(WORDS, WORDS)
def test_edits_are_levenshteins(a: str, b: str) -> None:
    assert levenshtein(a, b) == levenshtein(b, a) == slow_edits(a, b)
    assert 0 <= edit_distance(a, b) <= 1
    assert (edit_distance(a, b) == 0) == (a == b)


def test_the_conversation_grows_and_ends_where_a_critique_is_missing() -> None:
    whole = rollout("s", "su", "nus")
    contexts = public_contexts(whole)
    assert [len(c) for c in contexts] == [1, 3, 5]
    assert contexts[2] == conversation(whole.problem, [("s", "mend 0"), ("su", "mend 1")])
    assert contexts[2][:3] == contexts[1]
    assert [m.role for m in contexts[2]] == ["user", "assistant", "user", "assistant", "user"]
    assert len(public_contexts(rollout("s", "su", "nus", failed=1))) == 2


def test_moves_of_a_known_dialogue() -> None:
    found = moves([rollout("ab", " ab", "abcd", "nus")])
    assert [m.repeated for m in found] == [True, False, False]
    assert [m.distance for m in found] == [0.0, 0.5, 1.0]
    assert [(m.was_right, m.is_right) for m in found] == [(False, False), (False, False), (False, True)]


def test_a_gain_is_the_difference_of_the_references_logprob() -> None:
    engine = Bigram()
    renderer = Renderer(engine.tokenizer)
    told = rollout("s", "su", "nus", name="a")
    gains = critique_gains(engine, renderer, [rollout("x", reference=None), told, rollout("z", name="b")])
    assert [(g.problem, g.turn) for g in gains] == [("a", 0), ("a", 1)]

    def logprob(said: list[tuple[str, str]]) -> float:
        ids = [*renderer.prompt(conversation(told.problem, said)), *renderer.answer("nus")]
        table = engine.theta.detach().log_softmax(-1).numpy()
        return float(sum(table[a, b] for a, b in zip(ids[-5:-1], ids[-4:], strict=True)))

    expected = [logprob([]), logprob([("s", "mend 0")]), logprob([("s", "mend 0"), ("su", "mend 1")])]
    assert [g.before for g in gains] == pytest.approx(expected[:2], abs=1e-4)
    assert [g.after for g in gains] == pytest.approx(expected[1:], abs=1e-4)
    assert gains[0].gain == pytest.approx(expected[1] - expected[0], abs=1e-4)


def test_what_does_not_fit_the_model_has_no_gain() -> None:
    engine = Bigram()
    renderer = Renderer(engine.tokenizer)
    told = rollout("s", "su", "nus")
    long = len(renderer.prompt(public_contexts(told)[2])) + 4
    engine.max_length = long  # type: ignore[assignment]
    assert len(critique_gains(engine, renderer, [told])) == 2
    engine.max_length = long - 1  # type: ignore[assignment]
    assert len(critique_gains(engine, renderer, [told])) == 1


def test_the_record_counts_over_all_turns_and_turn_by_turn() -> None:
    told = [rollout("a", "a", "nus", name="p"), rollout("nus", "x", name="q")]
    record = plasticity(moves(told))
    assert record["repeated"]["mean"] == pytest.approx(1 / 3)
    assert (record["repeated"]["n"], record["repeated"]["problems"]) == (3, 2)
    assert (record["fixed"]["mean"], record["fixed"]["n"]) == (0.5, 2)
    assert (record["flipped"]["mean"], record["flipped"]["n"]) == (1.0, 1)
    assert record["flipped"]["ci95"] is None  # one problem
    assert "gain" not in record
    assert [r["turn"] for r in record["by_turn"]] == [0, 1]
    assert record["by_turn"][1]["fixed"]["mean"] == 1.0
    assert plasticity([]) == {"by_turn": []}


def test_clusters_are_resampled_whole() -> None:
    # Ten copies of each of ten values are ten observations, not a hundred.
    values = [float(i % 10) for i in range(100)]
    apart = clustered_mean(values, [str(i) for i in range(100)])
    together = clustered_mean(values, [str(i % 10) for i in range(100)])
    assert apart.value == together.value == 4.5
    assert together.n == 100
    assert together.low is not None
    assert apart.low is not None
    assert apart.high is not None
    assert together.high is not None
    assert together.high - together.low > 2.5 * (apart.high - apart.low)
    assert together == clustered_mean(values, [str(i % 10) for i in range(100)])
    sem = np.std(range(10)) / 10**0.5
    assert (together.high - together.low) / 2 == pytest.approx(1.96 * sem, rel=0.1)


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([float("nan")], ["a"])])
def test_a_mean_over_nothing_is_refused(values: list[float], clusters: list[str]) -> None:
    with pytest.raises(DataError, match="finite"):
        clustered_mean(values, clusters)
