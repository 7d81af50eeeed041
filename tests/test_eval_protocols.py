"""Protocols of evaluation: what the model sees before each answer, and what is counted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from didact.evaluation.evaluate import evaluate
from didact.evaluation.stats import wilson
from didact.feedback.model_critic import ModelCritic
from didact.prompts import CRITIQUE_REQUEST
from didact.rollouts.engine_chat import EngineChat
from didact.types import Ids
from tests.helpers import CountingCritic, EchoTask, ScriptedEngine, context, didact
from tests.models import save_model

PROBLEMS = EchoTask().eval_problems(4)


class Recorder(ScriptedEngine):
    """Remembers prompts as ids, too."""

    def __init__(self, answer) -> None:  # type: ignore[no-untyped-def]
        super().__init__(answer)
        self.ids: list[Ids] = []

    def sample(self, prompts, n, params, *, seed, weights=None):  # type: ignore[no-untyped-def]
        self.ids += [tuple(p) for p in prompts]
        return super().sample(prompts, n, params, seed=seed, weights=weights)


def own(ctx):  # type: ignore[no-untyped-def]
    critic = ModelCritic(EngineChat(ctx.engine, ctx.renderer))
    return dataclasses.replace(ctx, feedback=critic)


def holds(ids: Ids, part: Ids) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))


def script(text: str, j: int) -> str:
    """q1000 is right at once and spoilt by criticism; q1001 takes two rounds; the others stay wrong."""
    if CRITIQUE_REQUEST in text:
        return "say y" if "Assistant: x" in text else "say a"
    if "q1000" in text:
        return "b" if "critique" in text.lower() else "a"
    if "q1001" in text:
        return "a" if "say a" in text else "y" if "say y" in text else "x"
    return "w"


@pytest.mark.parametrize("protocol", ["single", "feedback", "self-critique"])
def test_what_was_said_never_reaches_a_context_of_plain_evaluation(protocol: str) -> None:
    """By token ids: first prompts are the questions' own, and none holds a critique's ids."""
    engine = Recorder(script)
    ctx = context(engine, CountingCritic())
    if protocol == "self-critique":
        found = evaluate(own(ctx), PROBLEMS, rounds=2, early_stop=False)
    else:
        found = evaluate(ctx, PROBLEMS, feedback=protocol == "feedback", rounds=2)
    plain = [ctx.renderer.prompt(p.messages) for p in PROBLEMS]
    assert engine.ids[: len(plain)] == plain
    assert [r.turns[0].prompt_ids for r in found.rollouts] == plain
    words = [f.text for r in found.rollouts for f in r.feedback] or ["wrong 0", "say x"]
    for said in (*words, "critique", CRITIQUE_REQUEST):
        part = tuple(ctx.renderer.tokenizer.encode(said))
        assert not any(holds(ids, part) for ids in plain)
    if protocol == "single":
        assert len(engine.ids) == len(plain)
        assert ctx.feedback.asked == 0  # type: ignore[union-attr]
    else:
        assert any(holds(engine.ids[-1], tuple(map(ord, said))) for said in words)  # it would be seen


def test_a_critic_that_tells_the_truth_stops_at_right_answers() -> None:
    answers = {"wrong 0": "x", "wrong 3": "a"}
    engine = ScriptedEngine(
        lambda text, j: "a" if "q1000" in text else next((a for w, a in answers.items() if w in text), "w")
    )
    found = evaluate(context(engine, CountingCritic()), PROBLEMS, rounds=3)
    assert [len(r.turns) for r in found.rollouts] == [1, 3, 4, 4]
    assert [(r["accuracy"], r["solved"]) for r in found.rounds()] == [
        (0.25, 0.25), (0.25, 0.25), (0.5, 0.5), (0.5, 0.5),
    ]  # fmt: skip
    assert [(r["mended"], r["spoilt"]) for r in found.rounds()] == [(0, 0), (0, 0), (1, 0), (0, 0)]
    values = found.metrics()
    assert (values["accuracy"], values["accuracy_after_feedback"]) == (0.25, 0.5)


def test_self_critique_goes_on_without_anybody_to_stop_it() -> None:
    engine = Recorder(script)
    found = evaluate(own(context(engine)), PROBLEMS, rounds=3, early_stop=False)
    assert [len(r.turns) for r in found.rollouts] == [4] * 4
    assert [[t.text for t in r.turns] for r in found.rollouts[:2]] == [list("abbb"), list("xyaa")]
    rounds = found.rounds()
    assert [r["accuracy"] for r in rounds] == [0.25, 0.0, 0.25, 0.25]
    assert [r["solved"] for r in rounds] == [0.25, 0.25, 0.5, 0.5]
    assert [(r["mended"], r["spoilt"]) for r in rounds] == [(0, 0), (0, 1), (1, 0), (0, 0)]
    assert all(r["n"] == 4 for r in rounds)
    assert rounds[2]["ci95"] == list(wilson(1, 4))
    assert rounds[2]["solved_ci95"] == list(wilson(2, 4))
    # The number to report is of the answers that stand, not of the best one, which nobody could pick.
    assert found.metrics("own_critique")["accuracy_after_own_critique"] == 0.25


def test_a_model_that_cannot_criticise_itself_keeps_its_answer() -> None:
    class Silent(ScriptedEngine):
        def _sample(self, text: str):  # type: ignore[no-untyped-def]
            found = super()._sample(text)
            return found._replace(stop_reason="length") if text == "…" else found

    engine = Silent(lambda text, j: "…" if CRITIQUE_REQUEST in text else "a" if "q1000" in text else "w")
    found = evaluate(own(context(engine)), PROBLEMS, rounds=2, early_stop=False)
    assert [len(r.turns) for r in found.rollouts] == [1] * 4
    assert [(r["n"], r["accuracy"]) for r in found.rounds()] == [(4, 0.25)] * 3


def test_a_critic_that_fails_at_any_round_leaves_no_accuracy_after_it() -> None:
    engine = ScriptedEngine(lambda text, j: "w")
    for fails in (0, 5):
        found = evaluate(context(engine, CountingCritic(fails=[fails])), PROBLEMS, rounds=2)
        assert found.by_round is None
        assert found.rounds() == []
        assert found.metrics()["n"] == 4


def test_one_round_is_what_it_was_without_rounds() -> None:
    engine = ScriptedEngine(lambda text, j: "a" if "wrong 1" in text else "b")
    found = evaluate(context(engine, CountingCritic()), PROBLEMS)
    assert found.by_round is not None
    assert found.by_round[-1].tolist() == [False, True, False, False]
    assert found.by_round is not None
    assert found.by_round.tolist() == [[False] * 4, [False, True, False, False]]


# ── the command ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


QUICK = ["--task", "spell_backward", "--set", "eval.problems=2", "--set", "sampling.max_tokens=3"]


@pytest.mark.parametrize(
    ("words", "rounds", "has"),
    [
        (["--protocol", "single"], 0, set()),
        (["--protocol", "feedback"], 0, {"accuracy_after_feedback"}),
        (["--protocol", "feedback", "--rounds", "2"], 3, {"accuracy_after_feedback"}),
        (["--protocol", "self-critique"], 2, {"accuracy_after_own_critique"}),
        (["--protocol", "self-critique", "--rounds", "2"], 3, {"accuracy_after_own_critique"}),
    ],
)
def test_eval_by_protocol(
    words: list[str], rounds: int, has: set[str], llama: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "eval.json"
    assert didact("eval", llama, *QUICK, *words, "--json", file) == 0
    found = json.loads(file.read_text())
    assert {key for key in found if key.startswith("accuracy_")} == has
    assert found["protocol"] == words[1]
    assert len(found.get("rounds", [])) == rounds
    assert capsys.readouterr().out.count(" critiques: ") == rounds


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["--protocol", "single", "--rounds", "2"], "leave --rounds out"),
        (["--protocol", "self-critic"], "self-critique"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_eval_refuses_what_makes_no_sense(
    words: list[str], cure: str, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert didact("eval", llama, *QUICK, *words) == 2
    assert cure in capsys.readouterr().err
