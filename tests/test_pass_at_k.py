"""pass@k, mean@K and mean reward: unbiased, and with intervals over problems."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.evaluation.evaluate import evaluate
from didact.evaluation.pass_at_k import pass_at_k, sampled_metrics
from didact.evaluation.stats import clustered_mean, over_problems, wilson
from didact.types import Problem, Rollout, Turn
from tests.helpers import EchoTask, ScriptedEngine, context, didact
from tests.models import save_model


def answers(problem: str, *rewards: float | None) -> list[Rollout]:
    """Single answers to one problem with these rewards; 1 is right."""
    return [
        Rollout(
            id=f"{problem}/{j}",
            group=problem,
            problem=Problem.ask("?", id=problem),
            turns=(
                Turn(
                    prompt_ids=(1,),
                    completion_ids=(2,),
                    logprobs=(0.0,),
                    text="",
                    stop_reason="eos",
                    reward=reward,
                ),
            ),
        )
        for j, reward in enumerate(rewards)
    ]


# ── pass@k ────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_counts_the_subsets_with_a_right_answer(case: tuple[int, int, int]) -> None:
    n, right, k = case
    subsets = list(combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_unbiased_where_the_plug_in_estimate_is_not() -> None:
    """E over c ~ Binomial(8, p) is 1 − (1 − p)³ exactly; 1 − (1 − c/8)³ is below it."""
    n, k, p = 8, 3, 0.3
    weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    expected = sum(w * pass_at_k(n, c, k) for c, w in enumerate(weights))
    plug_in = sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(weights))
    assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert plug_in < expected - 0.02


def test_pass_at_k_of_many_answers_stays_exact() -> None:
    assert pass_at_k(5000, 0, 2500) == 0
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5)
    assert pass_at_k(5000, 5000, 1) == 1
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)


@pytest.mark.parametrize("case", [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_of_impossible_counts_is_refused(case: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(*case)


# ── the record ────────────────────────────────────────────────────────────────────────────────────


def test_the_record_by_hand() -> None:
    """Two problems of four answers: 1 and 3 right."""
    found = sampled_metrics([*answers("a", 1, 0, 0, 0.5), *answers("b", 1, 1, 1, 0)], 4)
    assert (found["n"], found["samples"], found["unverified"]) == (2, 4, 0)
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["reward"] == pytest.approx((1.5 / 4 + 3 / 4) / 2)
    assert [(r["k"], r["n"]) for r in found["pass_at"]] == [(1, 2), (2, 2), (4, 2)]
    assert [r["pass"] for r in found["pass_at"]] == pytest.approx([0.5, (0.5 + 1) / 2, 1.0])
    assert found["pass_at"][0]["pass"] == pytest.approx(found["accuracy"])  # pass@1 is mean@K


@pytest.mark.parametrize(
    ("samples", "ks"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (32, [1, 2, 4, 8, 16, 32]), (6, [1, 2, 4, 6])]
)
def test_k_goes_in_powers_of_two_up_to_all(samples: int, ks: list[int]) -> None:
    found = sampled_metrics(answers("a", *[0.0] * samples), samples)
    assert [r["k"] for r in found["pass_at"]] == ks


def test_an_answer_without_a_verdict_is_missing_and_not_wrong() -> None:
    found = sampled_metrics([*answers("a", 1, None), *answers("b", 0, 0), *answers("c", None, None)], 2)
    assert (found["n"], found["unverified"], found["accuracy"]) == (2, 3, 0.5)
    assert [(r["k"], r["n"], r["pass"]) for r in found["pass_at"]] == [(1, 2, 0.5), (2, 1, 0.0)]
    with pytest.raises(UsageError, match="verifier"):
        sampled_metrics(answers("a", None), 1)


def test_more_samples_of_the_same_problems_are_no_more_evidence() -> None:
    """All K answers alike: the interval is that of the problems, not of problems times K."""
    few = [r for i in range(10) for r in answers(f"p{i}", *[float(i % 2)] * 2)]
    many = [r for i in range(10) for r in answers(f"p{i}", *[float(i % 2)] * 64)]
    widths = [np.diff(sampled_metrics(r, k)["ci95"])[0] for r, k in ((few, 2), (many, 64))]
    assert widths[0] == pytest.approx(widths[1])
    assert sampled_metrics(many, 64)["ci95"] == pytest.approx(list(wilson(5, 10)))
    assert np.diff(wilson(320, 640))[0] < 0.2 * widths[1]


def test_an_interval_over_problems_has_no_zero_width_where_all_fail() -> None:
    found = sampled_metrics([r for i in range(20) for r in answers(f"p{i}", 0, 0, 0)], 3)
    assert found["ci95"] == pytest.approx(list(wilson(0, 20)))
    assert found["ci95"][1] > 0.1


def test_other_values_are_resampled_by_problem() -> None:
    values = [0.25, 0.5, 0.0, 1.0]
    expected = clustered_mean(values, list("abcd"))
    assert over_problems("x", values) == {"x": expected.value, "x_ci95": expected.ci95}
    assert over_problems("x", [0.5]) == {"x": 0.5, "x_ci95": None}
    assert over_problems("x", [1.0, 0.0], "ends") == {"x": 0.5, "ends": list(wilson(1, 2))}


# ── evaluation ────────────────────────────────────────────────────────────────────────────────────


def test_the_mean_reward_is_beside_the_accuracy() -> None:
    problems = EchoTask().eval_problems(4)
    engine = ScriptedEngine(lambda text, j: "a" if "q1000" in text else "w")
    values = evaluate(context(engine), problems, feedback=False).metrics()
    assert (values["accuracy"], values["reward"]) == (0.25, 0.25)
    assert values["reward_ci95"] == values["ci95"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def test_eval_counts_several_answers(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "k.json"
    options = ["--task", "chain_sum", "--n", 3, "--set", "sampling.max_tokens=4", "--json", out]
    assert didact("eval", model, "--samples", 4, "--temperature", 1, *options) == 0
    found = json.loads(out.read_text())
    assert (found["protocol"], found["samples"], found["n"], found["temperature"]) == ("single", 4, 3, 1.0)
    assert [r["k"] for r in found["pass_at"]] == [1, 2, 4]
    printed = capsys.readouterr().out
    for word in ("mean@4: ", "pass@1: ", "pass@4: ", "mean reward "):
        assert word in printed


@pytest.mark.parametrize(
    "options",
    [[], ["--temperature", 1, "--protocol", "feedback"], ["--temperature", 1, "--protocol", "resample"]],
)
def test_equal_answers_and_other_protocols_are_refused(
    model: Path, options: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert didact("eval", model, "--task", "chain_sum", "--n", 3, "--samples", 4, *options) == 2
    assert "--temperature 1" in capsys.readouterr().err
