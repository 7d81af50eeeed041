"""Evaluation turn by turn: what is counted, and that nobody verifies before all is sampled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from didact.config import DialogueEvalConfig
from didact.errors import UsageError
from didact.evaluation.by_turn import (
    PROTOCOLS,
    DeferredVerification,
    by_turn,
    family_tables,
)
from didact.feedback.program import OUTCOME_ONLY
from didact.prompts import CRITIQUE_REQUEST
from didact.tasks.base import Verdict
from tests.helpers import CountingCritic, EchoTask, ScriptedEngine, context, didact, mixture_task
from tests.models import save_model

PROBLEMS = EchoTask().eval_problems(3)
THREE = DialogueEvalConfig(turns=3, critique_tokens=30)


def script(text: str, j: int) -> str:
    """q1000 is right first and spoilt afterwards, q1001 right at the third try, q1002 never."""
    turn = text.count("\nUser:") - text.count(CRITIQUE_REQUEST)
    if text.endswith(f"{CRITIQUE_REQUEST}\nAssistant:"):
        last = text.split("\0")[0].rsplit("Assistant:", 2)[-2]
        return "The answer is right." if last.startswith("a") else "The answer is wrong."
    if "q1000" in text:
        return "a" if turn == 0 and j == 0 else "z"
    if "q1001" in text:
        return "a" if turn == 2 or j == 2 else "x"
    return "w"


class Watched(EchoTask):
    """Notes how many answers were sampled when it was first asked to verify one."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.sampled_before: int | None = None

    def verify(self, problem, answer):  # type: ignore[no-untyped-def]
        if self.sampled_before is None:
            self.sampled_before = len(self.engine.prompts)
        return super().verify(problem, answer)


# ── without an oracle ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("protocol", ["self-critique", "retry", "resample"])
def test_the_verifier_is_asked_only_when_everything_is_sampled(protocol: str) -> None:
    engine = ScriptedEngine(script)
    task = Watched(engine)
    by_turn(context(engine, task=task), PROBLEMS, protocol, THREE)  # type: ignore[arg-type]
    assert task.sampled_before == len(engine.prompts)
    assert task.sampled_before > 0


def test_with_a_teacher_the_verifier_is_asked_between_turns() -> None:
    """The test above can fail."""
    engine = ScriptedEngine(script)
    task = Watched(engine)
    by_turn(context(engine, CountingCritic(), task=task), PROBLEMS, "didactic", THREE)
    assert task.sampled_before is not None
    assert task.sampled_before < len(engine.prompts)


@pytest.mark.parametrize("protocol", ["self-critique", "retry"])
def test_a_verifier_that_changes_its_mind_changes_no_prompt(protocol: str) -> None:
    class Contrary(EchoTask):
        def verify(self, problem, answer):  # type: ignore[no-untyped-def]
            return Verdict(1.0 - float(answer == "a"), answer != "a")

    prompts = []
    for task in (EchoTask(), Contrary()):
        engine = ScriptedEngine(script)
        by_turn(context(engine, task=task), PROBLEMS, protocol, THREE)  # type: ignore[arg-type]
        prompts.append(engine.prompts)
    assert prompts[0] == prompts[1]


def test_a_blind_task_has_the_problems_and_no_verdict() -> None:
    blind = DeferredVerification(EchoTask())
    assert blind.eval_problems(2) == EchoTask().eval_problems(2)
    assert blind.verify(PROBLEMS[0], "a") == Verdict(None, False)


# ── what is counted ───────────────────────────────────────────────────────────────────────────────


def shares(protocol: str, name: str) -> list[int]:
    ctx = context(ScriptedEngine(script), CountingCritic())
    records = by_turn(ctx, PROBLEMS, protocol, THREE).records()  # type: ignore[arg-type]
    assert [r["turn"] for r in records] == [1, 2, 3]
    return [round(3 * r[name]) for r in records]


def test_solved_is_cumulative_and_final_is_not() -> None:
    assert shares("didactic", "solved") == [1, 1, 2]
    assert shares("retry", "solved") == [1, 1, 2]
    assert shares("retry", "final") == [1, 0, 1]  # the right answer to q1000 was given up
    assert shares("resample", "solved") == [1, 1, 2]
    assert shares("resample", "majority") == [1, 1, 0]


def test_the_model_stops_where_its_own_critique_says_right() -> None:
    assert shares("self-critique", "final") == [1, 0, 1]
    assert shares("self-critique", "stopped") == [1, 1, 2]
    ctx = context(ScriptedEngine(script))
    told = by_turn(ctx, PROBLEMS, "self-critique", THREE).to_json()
    assert told["own_verdict_true"] == 1.0


def test_costs_are_counted_up_to_the_first_right_answer() -> None:
    ctx = context(ScriptedEngine(script))
    records = by_turn(ctx, PROBLEMS, "retry", THREE).records()
    assert [r["tokens"] for r in records] == [2.0, pytest.approx(3.33), pytest.approx(4.67)]
    assert all(r["feedback_tokens"] == 0 for r in records)
    spoken = by_turn(ctx, PROBLEMS, "self-critique", THREE).records()
    assert spoken[0]["feedback_tokens"] == 0 < spoken[1]["feedback_tokens"] < spoken[2]["feedback_tokens"]


def test_the_baselines_stand_beside_every_protocol() -> None:
    ctx = context(ScriptedEngine(script), CountingCritic())
    table = family_tables(ctx.task, ctx, {"all": PROBLEMS}, ["didactic"], THREE)["all"]
    assert list(table["protocols"]) == ["didactic", "retry", "resample"]
    whole = family_tables(ctx.task, ctx, {"all": PROBLEMS}, PROTOCOLS, THREE)["all"]
    assert set(whole["protocols"]) == set(PROTOCOLS)
    record = table["protocols"]["didactic"]["by_turn"][0]
    assert len(record["solved_ci95"]) == 2
    assert "final" not in record


def test_retry_says_its_sentence_and_resampling_says_nothing() -> None:
    engine = ScriptedEngine(script)
    by_turn(context(engine), PROBLEMS, "retry", THREE)
    assert engine.prompts[-1].count(OUTCOME_ONLY) == 2
    engine.prompts.clear()
    by_turn(context(engine), PROBLEMS, "resample", THREE)
    assert engine.prompts == [f"User: q{1000 + i}\nAssistant:" for i in range(3)]


def test_a_greedy_answer_is_not_resampled_greedily() -> None:
    class Params(ScriptedEngine):
        temperatures: list[float] = []  # noqa: RUF012

        def sample(self, prompts, n, params, *, seed, weights=None):  # type: ignore[no-untyped-def]
            self.temperatures.append(params.temperature)
            return super().sample(prompts, n, params, seed=seed, weights=weights)

    greedy = DialogueEvalConfig(turns=2)
    engine = Params(script)
    for protocol in ("resample", "retry"):
        by_turn(context(engine), PROBLEMS, protocol, greedy, 0.0)  # type: ignore[arg-type]
    assert engine.temperatures == [1.0, 0.0, 0.0]


def test_dialogues_without_a_verdict_or_a_teacher_are_an_error() -> None:
    with pytest.raises(UsageError, match="mend the teacher"):
        by_turn(
            context(ScriptedEngine(script), CountingCritic(fails=range(9))), PROBLEMS[1:], "didactic", THREE
        )
    with pytest.raises(UsageError, match="verifier that works"):
        by_turn(
            context(ScriptedEngine(script), task=DeferredVerification(EchoTask())), PROBLEMS, "retry", THREE
        )


# ── a mixture of generators ───────────────────────────────────────────────────────────────────────

PARTS = {"chain_sum": {"min_terms": 2, "max_terms": 2}, "gcd": {}}


def test_a_mixture_trains_on_its_parts_in_turn_and_never_on_what_is_held_out() -> None:
    task = mixture_task(PARTS, {"lcm": {}})
    kinds = [task.train_problem(i).id.split("::")[0] for i in range(4)]
    assert kinds == ["chain_sum", "gcd"] * 2
    asked = task.eval_problems(5)
    assert [p.id.split("::")[0] for p in asked] == ["chain_sum", "gcd", "chain_sum", "gcd", "chain_sum"]
    families = task.families()
    assert list(families) == ["chain_sum", "gcd", "lcm"]
    for name, family in families.items():
        (problem,) = family.eval_problems(1)
        assert problem.id.startswith(f"{name}::")
        assert task.verify(problem, problem.reference or "").correct
        assert not family.verify(problem, "no number").correct
    assert not {p.question for p in asked} & {task.train_problem(i).question for i in range(20)}


def test_a_mixture_that_names_nothing_or_one_thing_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="parts"):
        mixture_task({})
    with pytest.raises(UsageError, match="'gcd'"):
        mixture_task(PARTS, {"gcd": {}})
    with pytest.raises(UsageError, match="'gdc'"):
        mixture_task({"gdc": {}})
    task = mixture_task({"small": {"generator": "gcd", "max_value": 900}, "large": {"generator": "gcd"}})
    assert task.train_problem(0).id.startswith("small::gcd/")


# ── command line and run ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def test_didact_eval_writes_dialogues_by_turn(model: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "found.json"
    small = ["--set", "eval.problems=2", "--set", "sampling.max_tokens=4", "--task", "gcd"]
    assert didact("eval", model, "--protocol", "didactic", "--turns", "3", "--json", out, *small) == 0
    shown = capsys.readouterr().out
    assert "didactic, turn 3: solved" in shown
    assert "resample, turn 1: solved" in shown
    found = json.loads(out.read_text())
    assert found["protocol"] == "didactic"
    assert set(found["families"]["gcd"]["protocols"]) == {"didactic", "retry", "resample"}
    assert didact("eval", model, "--protocol", "self-critique", "--turns", "2", *small) == 0
    assert "self-critique, turn 2: solved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (("--protocol", "didactic", "--rounds", "3"), "--turns 4"),
        (("--protocol", "feedback", "--turns", "3"), "give --rounds"),
    ],
)
def test_turns_are_for_dialogues_and_rounds_are_not(words, cure, model, capsys) -> None:  # type: ignore[no-untyped-def]
    assert didact("eval", model, *words) == 2
    assert cure in capsys.readouterr().err


def test_a_runs_final_evaluation_holds_dialogues_where_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    import didact as library

    run = library.train(
        "rl2f",
        out=tmp_path / "run",
        model=str(model),
        task={"name": "mixture", "settings": {"parts": {"gcd": {}}, "held_out": {"lcm": {}}}},
        settings={"samples": 2, "turns": 2, "lambda_wm": 0.5},
        steps=1,
        problems_per_step=2,
        sampling={"max_tokens": 3},
        eval={"problems": 2, "dialogue": {"turns": 2, "problems": 2}, "temperature": 1.0},
        optim={"lr": 1e-3},
    )
    tables = json.loads(run.result.read_text())["eval"]["by_turn"]
    assert {name: t["held_out"] for name, t in tables.items()} == {"gcd": False, "lcm": True}
    assert set(tables["lcm"]["protocols"]) == set(PROTOCOLS)
    assert len(tables["lcm"]["protocols"]["didactic"]["by_turn"]) == 2
    first = json.loads(run.metrics.read_text().splitlines()[0])
    assert "by_turn" not in first["eval"]
