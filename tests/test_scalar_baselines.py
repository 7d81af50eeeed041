"""What Text2Grad is measured against: PPO with one reward an answer, and ILF."""

from __future__ import annotations

import pytest

from didact.errors import UsageError
from didact.methods import ILF, PPO, Text2Grad, make_method
from tests.bigram import Bigram, failed
from tests.helpers import CountingCritic, ScriptedEngine, context, dialogue

# ── PPO ───────────────────────────────────────────────────────────────────────────────────────────


def rewards(method, rollouts):
    found = method.token_rewards(context(Bigram()), rollouts)
    return [None if r is None else r.tolist() for r in found]


def test_the_reward_stands_at_the_last_token():
    engine = Bigram()
    rollouts = [
        engine.answer("ab", reward=0.5, score=2.0, good=["a"]),
        engine.answer("cde", ended=False, reward=None, score=-1.0, poor=["c", "d"]),
        engine.answer("x", reward=1.0, **failed()),
    ]
    assert rewards(PPO(), rollouts) == [[0, 0, 0.5], None, [0, 1.0]]
    assert rewards(PPO(reward="score"), rollouts) == [[0, 0, 2.0], [0, 0, -1.0], None]
    assert rewards(PPO(reward="spans"), rollouts) == [[0, 0, 1.0], [0, 0, -2.0], None]


def test_the_sum_of_spans_is_all_that_text2grad_gives():
    engine = Bigram()
    rollouts = [engine.answer("abc def", good=["abc"], poor=["f"]), engine.answer("xy", poor=["xy"])]
    settings = {"poor": 2.0, "length_normalised": True}
    spans = Text2Grad(spans=settings).token_rewards(context(engine), rollouts)
    scalar = PPO(reward="spans", spans=settings).token_rewards(context(engine), rollouts)
    assert [s.sum() for s in spans] == pytest.approx([r[-1] for r in scalar])


def test_ppo_asks_for_critiques_only_where_it_learns_from_them():
    assert [PPO(reward=r).needs_feedback for r in ("task", "score", "spans")] == [False, True, True]
    critic = CountingCritic()
    engine = Bigram()
    engine.sample = ScriptedEngine(lambda text, j: "ab").sample
    engine.prompts = []
    for reward, asked in (("task", 0), ("spans", 2)):
        method = PPO(reward=reward, samples=2)
        ctx = context(engine, critic)
        rollouts = method.collect(ctx, [ctx.task.train_problem(0)])
        assert len(rollouts) == 2
        assert critic.asked == asked


def test_a_right_answer_is_criticised_too():
    critic, engine = CountingCritic(), Bigram()
    engine.sample = ScriptedEngine(lambda text, j: "a").sample
    ctx = context(engine, critic)
    rollouts = Text2Grad(samples=3).collect(ctx, [ctx.task.train_problem(0)])
    assert all(r.turns[0].correct and len(r.feedback) == 1 and len(r.turns) == 1 for r in rollouts)
    assert critic.asked == 3


def test_a_reward_for_one_token_alone_is_refused():
    with pytest.raises(UsageError, match="gae or critic_free"):
        make_method("ppo", {"credit": "direct"})


# ── ILF ───────────────────────────────────────────────────────────────────────────────────────────


def targets(terms):
    return [(row.input_ids.tolist(), row.target_ids.tolist()) for row in terms[0].rows]


def test_the_best_refinement_of_each_problem_is_learned_from_its_plain_prompt():
    rollouts = [
        dialogue(0.0, 0.2, group="a", tokens=(5, 6)),
        dialogue(0.0, 0.9, group="a", tokens=(5, 7)),
        dialogue(0.0, 0.9, group="a", tokens=(5, 8)),
        dialogue(0.0, 0.5, group="b", tokens=(5, 9)),
    ]
    terms = ILF().rows(context(), rollouts)
    assert targets(terms) == [([1], [7]), ([1], [9])]
    assert [row.fields["weights"].tolist() for row in terms[0].rows] == [[0.5], [0.5]]
    assert terms[0].loss.name == "cross_entropy"


def test_what_is_no_better_or_not_there_teaches_nothing():
    rollouts = [
        dialogue(1.0, group="right"),
        dialogue(0.0, group="down", failed=True),
        dialogue(0.5, 0.5, group="same"),
        dialogue(0.5, 0.2, group="worse", tokens=(5, 7)),
        dialogue(0.0, None, group="none"),
        dialogue(None, 0.0, group="unknown", tokens=(5, 8)),
    ]
    assert targets(ILF().rows(context(), rollouts)) == [([1], [8])]
    kept = ILF(improved_only=False).rows(context(), rollouts)
    assert [target for _, target in targets(kept)] == [[6], [7], [8]]
    assert ILF().rows(context(), rollouts[:3]) == []


def test_ilf_samples_as_two_turn_methods_do():
    engine = ScriptedEngine(lambda text, j: "b")
    ctx = context(engine, CountingCritic())
    rollouts = ILF(samples=3).collect(ctx, [ctx.task.train_problem(0)])
    assert [len(r.turns) for r in rollouts] == [2, 2, 2]
    assert ILF().needs_feedback
    assert not ILF().needs_reference
    assert ILF().rows(ctx, rollouts) == []  # "b" is as wrong as "b"
