"""RL2F: who is trained on what, how hard, and what leaves the update."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import didact
from didact.errors import UsageError
from didact.methods import GRPO, RL2F, RLTF, RejectionSFT, make_method
from didact.methods.rl2f import first_leak, turns_to_solve, without_signal, world_model_term
from didact.prompts import CRITIQUE_REQUEST
from didact.types import Feedback, Problem, Rollout, Row, Turn
from tests.helpers import CRITIC, CountingCritic, EchoTask, ScriptedEngine, context
from tests.models import save_model

PROBLEMS = [EchoTask().train_problem(i) for i in range(2)]
SAID = "no"


def said(turn: int, *, leaks: bool | None = False, failed: bool = False, text: str = SAID) -> Feedback:
    return Feedback(
        turn=turn, text="" if failed else text, source="teacher", saw_reference=True, provenance=CRITIC,
        leaks=leaks, status="failed" if failed else "ok", error="down" if failed else None,
    )  # fmt: skip


def talk(
    *answers: str, right: bool = False, group: str = "g", leak: int | None = None, failed: bool = False
) -> Rollout:
    """A dialogue of these answers, one id a character; each answer but the last was criticised."""
    ctx = context()
    turns: list[Turn] = []
    prompt = ctx.renderer.prompt(PROBLEMS[0].messages)
    for h, answer in enumerate(answers):
        ids = (*map(ord, answer), 0)
        correct = right and h == len(answers) - 1
        turns.append(
            Turn(
                prompt_ids=prompt,
                completion_ids=ids,
                logprobs=tuple(-0.1 * (h + 1) for _ in ids),
                text=answer,
                stop_reason="eos",
                reward=float(correct),
            )
        )
        prompt = (*prompt, *ids, *ctx.renderer.follow_up(SAID))
    feedback = [said(h, leaks=h == leak) for h in range(len(answers) - 1)]
    if failed:
        feedback.append(said(len(answers) - 1, failed=True))
    problem = Problem.ask("q0", id=group, reference="a")
    return Rollout(
        id=f"{group}/{id(turns)}", group=group, problem=problem, turns=tuple(turns), feedback=tuple(feedback)
    )


def trained(row: Row, field: str = "weights") -> list[tuple[str, float]]:
    """(token, value) where a row has weight."""
    chosen = row.fields["weights"] != 0
    values = np.round(row.fields[field][chosen].astype(float), 4).tolist()
    return list(zip(map(chr, row.target_ids[chosen]), values, strict=True))


# ── goldens ───────────────────────────────────────────────────────────────────────────────────────


def test_masks_and_advantages_of_a_three_turn_dialogue() -> None:
    """R = 0.7² against 0: centred ±0.245; every student token, no token of prompt or teacher."""
    batch = [talk("xy", "z", "a", right=True), talk("x", "x", "x", "x")]
    (term,) = RL2F(lambda_wm=0, divide_by_std=False).rows(context(), batch)
    assert term.name == "rl"
    assert len(term.rows) == 2  # a dialogue is one row
    first, second = term.rows
    assert trained(first) == [(c, 0.5) for c in "xy\0z\0a\0"]
    assert trained(first, "advantages") == [(c, 0.245) for c in "xy\0z\0a\0"]
    assert trained(second, "advantages") == [(c, -0.245) for c in "x\0x\0x\0x\0"]
    whole = (*batch[0].turns[2].prompt_ids, *batch[0].turns[2].completion_ids)
    assert (*first.input_ids, first.target_ids[-1]) == whole


def test_return_to_go_values_each_answer_by_what_is_still_to_come() -> None:
    method = RL2F(credit="to_go", divide_by_std=False)
    found = method.advantages(
        [talk("x", "y", "a", right=True), talk("x", "x", "x", "x"), talk("a", right=True)]
    )
    r0 = np.array([0.49, 0.0, 1.0])
    assert np.allclose(found[:, 0], r0 - r0.mean())
    assert np.allclose(found[:2, 1], [0.35, -0.35])
    assert np.allclose(found[:2, 2], [0.5, -0.5])
    assert np.isnan(found[2, 1])
    assert np.isnan(found[0, 3])


def test_to_stay_right_under_false_corrections_costs_nothing_and_to_give_in_costs_all() -> None:
    """Answers right at 1, 2 and 3; wrong at 2; and wrong, then right: R = 1, 0 and 0.7."""

    def spoken(*correct: bool) -> Rollout:
        rollout = talk(*("a" if c else "x" for c in correct))
        turns = [
            t.model_copy(update={"reward": float(c), "correct": c})
            for t, c in zip(rollout.turns, correct, strict=True)
        ]
        return rollout.model_copy(update={"turns": tuple(turns)})

    batch = [spoken(True, True, True), spoken(True, False), spoken(False, True)]
    assert [turns_to_solve(r) for r in batch] == [1, 2, 2]
    found = RL2F(divide_by_std=False).advantages(batch)
    mean = (1 + 0 + 0.7) / 3
    assert np.allclose(found[0, :3], 1 - mean)  # every answer of the dialogue
    assert np.allclose(found[1, :2], 0 - mean)
    assert np.allclose(found[2, :2], 0.7 - mean)

    class Both(CountingCritic):
        critiques_correct_answers = True

    with pytest.raises(UsageError, match="credit=conversation"):
        RL2F(credit="to_go").collect(context(ScriptedEngine(lambda text, j: "a"), Both()), PROBLEMS)


def test_std_division_and_normalising_by_tokens() -> None:
    batch = [talk("a", right=True), talk("x", "x", "x", "x")]
    assert RL2F().advantages(batch)[0, 0] == pytest.approx(1.0, abs=1e-4)
    (term,) = RL2F(lambda_wm=0, normalise="tokens").rows(context(), batch)
    assert {w for row in term.rows for _, w in trained(row)} == {0.1}  # 2 + 8 student tokens


def test_clipping_keeps_the_log_probs_that_tokens_were_sampled_with() -> None:
    (term,) = RL2F(lambda_wm=0, clip=0.2).rows(context(), [talk("x", "a", right=True), talk("x", "y")])
    assert term.loss.name == "ppo"
    assert trained(term.rows[0], "old_logprobs") == [("x", -0.1), ("\0", -0.1), ("a", -0.2), ("\0", -0.2)]


def test_a_shortened_conversation_begins_a_new_row() -> None:
    long = talk("x", "y", "a", right=True)
    cut = long.turns[2].model_copy(update={"prompt_ids": (7, 8)})
    long = long.model_copy(update={"turns": (*long.turns[:2], cut)})
    (term,) = RL2F(lambda_wm=0).rows(context(), [long, talk("x", "x", "x", "x")])
    assert [trained(row)[0][0] for row in term.rows] == ["x", "a", "x"]
    assert term.rows[1].input_ids.tolist()[:2] == [7, 8]


# ── the world model ───────────────────────────────────────────────────────────────────────────────


def test_the_world_model_learns_the_teachers_words_and_no_student_token() -> None:
    rollout = talk("xy", "a", right=True)
    ctx = context()
    terms = {t.name: t for t in RL2F(lambda_wm=0.5).rows(ctx, [rollout, talk("a", right=True)])}
    assert terms["wm"].loss.name == "cross_entropy"
    (row,) = terms["wm"].rows
    assert trained(row) == [(c, 0.25) for c in SAID + "\0"]  # λ / M
    turn = rollout.turns[0]
    context_ids = (*turn.prompt_ids, *turn.completion_ids, *ctx.renderer.follow_up(CRITIQUE_REQUEST))
    assert tuple(row.input_ids[: len(context_ids)]) == context_ids
    assert not any(SAID in "".join(c for c, _ in trained(r)) for r in terms["rl"].rows)


def test_the_world_models_rows_do_not_depend_on_the_reference() -> None:
    def rows(reference: str) -> list[list[int]]:
        rollout = talk("x", "a", right=True)
        problem = rollout.problem.model_copy(update={"reference": reference})
        (term,) = [
            t
            for t in RL2F().rows(context(), [rollout.model_copy(update={"problem": problem})])
            if t.name == "wm"
        ]
        return [r.input_ids.tolist() for r in term.rows]

    assert rows("SECRET") == rows("another")


def test_critiques_that_leak_or_do_not_fit_are_not_learned() -> None:
    leaky = talk("x", "a", right=True, leak=0)
    names = lambda method, ctx: [t.name for t in method.rows(ctx, [leaky, talk("x", "y")])]  # noqa: E731
    ctx = context()
    dropped = world_model_term(ctx, [leaky], 0.2, leaks="drop")
    assert dropped.rows == []
    assert len(world_model_term(ctx, [leaky], 0.2, leaks="keep").rows) == 1
    assert "wm" in names(RL2F(leaks="keep"), ctx)
    ctx.engine.max_length = 10  # type: ignore[misc]
    assert world_model_term(ctx, [leaky], 0.2, leaks="keep").rows == []


# ── the special case, and signs ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("settings", [{}, {"divide_by_std": False}, {"clip": 0.2}])
def test_one_turn_without_world_model_is_single_turn_grpo(settings: dict[str, object]) -> None:
    script = lambda text, j: "a" if j % 2 else "b"  # noqa: E731
    settings = {"divide_by_std": True, "samples": 4, **settings}
    dialogues, single = RL2F(turns=1, lambda_wm=0, **settings), GRPO(**settings)  # type: ignore[arg-type]
    assert not dialogues.needs_feedback
    a, b = context(ScriptedEngine(script)), context(ScriptedEngine(script))
    mine, theirs = dialogues.collect(a, PROBLEMS), single.collect(b, PROBLEMS)
    assert mine == theirs
    (one,), (two,) = dialogues.rows(a, mine), single.rows(b, theirs)
    assert one.loss == two.loss
    assert len(one.rows) == len(two.rows) == 8
    for x, y in zip(one.rows, two.rows, strict=True):
        assert x.input_ids.tolist() == y.input_ids.tolist()
        assert {k: v.tolist() for k, v in x.fields.items()} == {k: v.tolist() for k, v in y.fields.items()}


def test_an_update_makes_solved_dialogues_likelier_and_failed_ones_less(tmp_path: Path) -> None:
    """The sign, through the engine."""
    from didact.engines.base import AdamParams
    from didact.engines.local import LocalEngine
    from didact.rendering.renderer import Renderer

    engine = LocalEngine.from_pretrained(save_model(tmp_path / "m"))
    renderer = Renderer(engine.tokenizer)
    ctx = context(engine, CountingCritic(), renderer=renderer)

    def as_dialogue(answer: str, right: bool) -> Rollout:
        prompt = renderer.prompt(PROBLEMS[0].messages)
        ids = renderer.answer("no")
        again = (*prompt, *ids, *renderer.follow_up(SAID))
        sampled = [(prompt, ids, 0.0), (again, renderer.answer(answer), float(right))]
        turns = tuple(
            Turn(
                prompt_ids=p,
                completion_ids=c,
                logprobs=(-1.0,) * len(c),
                text="",
                stop_reason="eos",
                reward=r,
            )
            for p, c, r in sampled
        )
        return talk("x", "y").model_copy(update={"turns": turns})

    batch = [as_dialogue("a", True), as_dialogue("z", False)]
    batch[1] = batch[1].model_copy(update={"id": "other"})
    probes = [Row.from_completion(r.turns[1].prompt_ids, r.turns[1].completion_ids[:1]) for r in batch]
    before = [float(x[-1]) for x in engine.logprobs(probes)]
    (term,) = RL2F(lambda_wm=0, turns=2).rows(ctx, batch)
    engine.forward_backward(term.rows, term.loss)
    engine.optim_step(AdamParams(lr=1e-3))
    after = [float(x[-1]) for x in engine.logprobs(probes)]
    assert after[0] - before[0] > after[1] - before[1]
    assert after[0] > before[0]
    assert after[1] < before[1]


# ── leaks, signal, band, failures ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("leaks", "expected"), [("keep", 0.35), ("zero", 0.0), ("drop", None)])
def test_what_becomes_of_a_dialogue_in_which_the_answer_was_told(leaks: str, expected: float | None) -> None:
    told = talk("x", "a", right=True, leak=0)
    assert first_leak(told) == 0
    method = RL2F(leaks=leaks, divide_by_std=False)  # type: ignore[arg-type]
    found = method.advantages([told, talk("x", "y")])[0, 0]
    if expected is None:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(expected)


def test_a_leak_that_no_answer_followed_changed_nothing() -> None:
    ended = talk("x", "y")
    leak = said(1, leaks=True)
    assert first_leak(ended.model_copy(update={"feedback": (*ended.feedback, leak)})) is None


def test_groups_without_a_signal_are_counted_and_have_no_row() -> None:
    batch = [
        talk("a", right=True),
        talk("a", right=True),
        talk("x", "y", group="h"),
        talk("z", "y", group="h"),
    ]
    ctx = context()
    method = RL2F(lambda_wm=0)
    assert method.rows(ctx, batch) == []
    assert without_signal(method.advantages(batch), batch) == {"g", "h"}
    assert ctx.metrics["groups_without_signal"] == 2
    assert ctx.metrics["solved"] == 0.5
    assert ctx.metrics["turns_to_solve"] == 1.0


def test_a_question_without_signal_is_tried_again_where_that_is_asked_for() -> None:
    method = RL2F(samples=2, turns=1, resample=2)
    rollouts = method.collect(context(ScriptedEngine(lambda text, j: "b")), PROBLEMS)
    assert len(rollouts) == 3 * 2 * 2  # what was paid for is kept
    assert len({r.id for r in rollouts}) == len(rollouts)
    assert len({r.group for r in rollouts}) == 6
    lively = ScriptedEngine(lambda text, j: "a" if j else "b")
    assert len(method.collect(context(lively), PROBLEMS)) == 4


@pytest.mark.parametrize(
    "missing", [talk("x", "y", "z", failed=True), talk("x", "y", "a", right=True, leak=0)]
)
def test_a_missing_dialogue_is_as_if_it_had_never_been(missing: Rollout) -> None:
    """Its teacher failed at the last critique, or leaked at the first; no critique of it is learned."""
    rest = [talk("x", "a", right=True), talk("y", "z")]
    for method in (RL2F(lambda_wm=0.6, turns=4), RejectionSFT(lambda_wm=0.6, turns=4)):
        alone, beside = (method.rows(context(), batch) for batch in (rest, [*rest, missing]))
        assert [t.name for t in alone] == [t.name for t in beside]
        for a, b in zip(alone, beside, strict=True):
            assert len(a.rows) == len(b.rows)
            for row, other in zip(a.rows, b.rows, strict=True):
                assert row.input_ids.tolist() == other.input_ids.tolist()
                for name, values in row.fields.items():
                    assert values.tolist() == other.fields[name].tolist()
        wm = next(t for t in beside if t.name == "wm")
        assert {w for row in wm.rows for _, w in trained(row)} == {0.3}  # λ / M, M = 2


def test_rltf_learns_no_critique_of_a_dialogue_whose_critic_failed_later() -> None:
    """Of three turns the second critique failed: the first one has no row, and λ / M counts one dialogue."""
    batch = [talk("x", "y", "a", right=True), talk("y", "z", failed=True)]
    method = RLTF(turns=3, lambda_fm=0.6, lambda_sd=0)
    terms = {term.name: term.rows for term in method.rows(context(), batch)}
    (row,) = terms["fm"]
    assert {w for _, w in trained(row)} == {0.6}
    assert "rl" not in terms  # alone in its group, a dialogue has advantage 0


def test_a_kl_term_trains_dialogues_without_advantage_too() -> None:
    """Equal returns have no policy gradient; the KL towards the start has one at every student token."""
    batch = [talk("x", "a", right=True), talk("y", "a", right=True)]
    assert RL2F(lambda_wm=0).rows(context(), batch) == []
    ctx = context()
    ctx.engine.logprobs = lambda rows, weights: [np.full(len(row), -0.5, np.float32) for row in rows]  # type: ignore[method-assign]
    (term,) = RL2F(lambda_wm=0, kl_coef=0.1).rows(ctx, batch)
    assert [trained(row, "advantages") for row in term.rows] == [
        [(c, 0.0) for c in "x\0a\0"],
        [(c, 0.0) for c in "y\0a\0"],
    ]
    assert all(w == 0.5 for row in term.rows for _, w in trained(row))
    assert all("ref_logprobs" in row.fields for row in term.rows)


def test_a_failed_teacher_counts_neither_as_solved_nor_as_unsolved() -> None:
    batch = [talk("x", "a", right=True), talk("x", "y"), talk("x", failed=True), talk("y", failed=True)]
    ctx = context()
    method = RL2F(band=(0.4, 0.6), turns=3)
    assert not np.isnan(method.advantages(batch)[:2, 0]).any()  # one of two, not one of four
    method.rows(ctx, batch)
    assert ctx.metrics["solved"] == 0.5
    assert ctx.metrics["turns"] == 2
    assert ctx.metrics["solved_by_2"] == 0.5


def test_no_dialogue_at_all_is_no_row() -> None:
    ctx = context()
    assert RL2F(turns=3).rows(ctx, [talk("x", failed=True), talk("y", failed=True)]) == []
    assert "solved" not in ctx.metrics


def test_a_band_leaves_questions_out_that_are_too_easy_or_too_hard() -> None:
    easy = [talk("a", right=True), talk("a", right=True), talk("x", "y")]
    hard = [talk("a", right=True, group="h"), talk("x", "y", group="h"), talk("x", "z", group="h")]
    method = RL2F(band=(0.2, 0.5))
    found = method.advantages([*easy, *hard])
    assert np.isnan(found[:3]).all()
    assert not np.isnan(found[3:, 0]).any()
    with pytest.raises(UsageError, match="band"):
        make_method("rl2f", {"band": [0.9, 0.1]})


def test_a_dialogue_whose_teacher_failed_leaves_its_group() -> None:
    broken = talk("x", "y", failed=True)
    found = RL2F(divide_by_std=False).advantages([broken, talk("a", right=True), talk("x", "y", "z", "x")])
    assert np.isnan(found[0]).all()
    assert found[1, 0] == pytest.approx(0.5)


def test_only_sampled_answers_are_trained() -> None:
    given = talk("x", "a", right=True)
    first = given.turns[0].model_copy(update={"logprobs": None})
    given = given.model_copy(update={"turns": (first, given.turns[1])})
    (term,) = RL2F(lambda_wm=0).rows(context(), [given, talk("x", "y")])
    assert [c for c, _ in trained(term.rows[0])] == ["a", "\0"]


# ── supervised fine-tuning on solved dialogues ────────────────────────────────────────────────────


def test_sft_on_dialogues_imitates_the_solved_ones_student_side_only() -> None:
    batch = [
        talk("x", "a", right=True),
        talk("x", "y"),
        talk("x", "a", right=True, leak=0),
        talk("a", right=True),
    ]
    (term,) = RejectionSFT().rows(context(), batch)
    assert term.loss.name == "cross_entropy"
    assert [trained(r) for r in term.rows] == [
        [(c, 0.3333) for c in "x\0a\0"],
        [("a", 0.3333), ("\0", 0.3333)],
    ]
    assert set(term.rows[0].fields) == {"weights"}
    (last,) = RejectionSFT(learned="last", sampler="policy").rows(context(), batch[:2])
    assert [c for c, _ in trained(last.rows[0])] == ["a", "\0"]
    assert RejectionSFT().needs_reference
    assert not RejectionSFT(sampler="policy").needs_reference


# ── a whole run ───────────────────────────────────────────────────────────────────────────────────

SETTINGS = {
    "settings": {"samples": 2, "turns": 3, "lambda_wm": 0.5},
    "problems_per_step": 2,
    "steps": 3,
    "checkpoint_every": 1,
    "sampling": {"max_tokens": 4},
    "eval": {"problems": 0},
    "optim": {"lr": 1e-3},
}
COMPARED = ("metrics.jsonl", "rollouts.jsonl", "feedback.jsonl", "result.json")
DRIVER = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
import didact
from didact.engines.local import LocalEngine

out, model, settings, count = sys.argv[1:]
left, sample = int(count), LocalEngine.sample

def deadly(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample(*args, **kwargs)

LocalEngine.sample = deadly
didact.train("rl2f", out=out, model=model, task="spell_backward", **json.loads(settings))
"""


def test_a_run_killed_between_two_turns_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    whole, out = tmp_path / "whole", tmp_path / "run"
    didact.train("rl2f", out=whole, model=str(model), task="spell_backward", **SETTINGS)
    # Three turns a step: the fifth call is the second turn of the second step.
    arguments = [str(out), str(model), json.dumps(SETTINGS), "5"]
    killed = subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    didact.resume(out)
    for name in COMPARED:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    weights = "model/model.safetensors"
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all("solved" in line and "leak_rate" in line for line in lines)


def test_the_names_of_the_command_line_make_these_methods() -> None:
    made = make_method("rl2f")
    assert (made.turns, made.gamma, made.samples, made.kl_coef) == (4, 0.7, 8, 0)  # type: ignore[attr-defined]
    assert made.uses_dialogue_teacher
    assert not make_method("rltf").uses_dialogue_teacher
    assert isinstance(make_method("sft-dialogues"), RejectionSFT)
