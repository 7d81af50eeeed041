"""question → answer → critique → answer → … in one growing conversation (RL2F, arXiv:2602.16066).

    o_0 = question,   u_t ~ student(o_t),   c_t ~ teacher(o_t, u_t, k),   o_{t+1} = o_t · u_t · c_t

The student conditions on o only. The teacher also has the private k: the reference (static), or the output of
a program on this answer (dynamic). It criticises wrong answers, and the dialogue ends at the first correct
answer or after T answers. With a source that has `critiques_correct_answers`, correct answers are criticised
too, and the dialogue goes on after one whose critique is misleading. k reaches the student through the
critiques and the moment of stopping only: the student's ids are the question, sampled ids and the ids of the
critiques.

A prompt is the previous ids plus the newly rendered message; sampled ids are re-encoded only where they have
thoughts, which later turns do not see. A dialogue that exceeds the model's context, or `window` exchanges,
loses exchanges from the middle: the question and the latest exchanges remain, a notice after the question
gives the number left out, and the teacher's view loses the same exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from didact.engines.base import reuse_prefix_cache
from didact.feedback_source import Exchange, FeedbackRequest, critiques_correct_answers
from didact.rng import derive_seed
from didact.rollouts.base import StepContext, add_answers, conversation, first_turns
from didact.types import Ids, Message, Problem, Rollout

NOTICE = "\n\n[… {number} earlier {attempts} left out …]"
"""Appended to the question of a shortened dialogue."""


class View(NamedTuple):
    """The student's context before an answer."""

    start: int
    """Index of the first exchange in it."""
    ids: Ids


def tutored_dialogues(
    ctx: StepContext,
    problems: Sequence[Problem],
    n: int,
    *,
    turns: int = 4,
    window: int | None = None,
    early_stop: bool = True,
) -> list[Rollout]:
    """n ≥ 1 dialogues for each of P problems, of at most `turns` answers in one conversation.

    First answers are sampled, or taken from `ctx.offline`.

    Args:
        ctx: With more than one turn, its feedback source is the teacher.
        turns: T ≥ 1, answers a dialogue.
        window: Maximum number of earlier exchanges in view, ≥ 1; None for all that fit the model.
        early_stop: A correct answer ends the dialogue. Off where correctness must stay unknown.

    Returns:
        P·n rollouts. Fewer turns where the answer was correct, the teacher failed (the failed feedback is
        kept) or not even the latest exchange leaves room for an answer.
    """
    with reuse_prefix_cache(ctx.engine):
        rollouts = first_turns(ctx, problems, n)
        views = [View(0, rollout.turns[0].prompt_ids) for rollout in rollouts]
        for h in range(turns - 1):
            continuing = _criticise(ctx, rollouts, views, h, early_stop=early_stop)
            _answer(ctx, rollouts, views, continuing, h, window)
    return rollouts


def _criticise(
    ctx: StepContext, rollouts: list[Rollout], views: Sequence[View], h: int, *, early_stop: bool
) -> list[int]:
    """Add critiques of turn h, in place; the indices of the rollouts that continue."""
    ends = early_stop and not critiques_correct_answers(ctx.feedback_source)
    open_ = [i for i, r in enumerate(rollouts) if len(r.turns) == h + 1 and not (ends and r.turns[h].correct)]
    if not open_:
        return []
    requests = [
        FeedbackRequest(
            rollouts[i].problem, rollouts[i].turns[h], h, _earlier(rollouts[i], views[i], h), rollouts[i].id
        )
        for i in open_
    ]
    continuing = []
    for i, feedback in zip(open_, ctx.feedback_source.critique(requests), strict=True):
        done = early_stop and rollouts[i].turns[h].correct
        if feedback.ok or not done:  # without a critique of a correct answer the dialogue ends as usual
            rollouts[i] = rollouts[i].model_copy(update={"feedback": (*rollouts[i].feedback, feedback)})
        if feedback.ok and (feedback.misleading or not done):
            continuing.append(i)
    return continuing


def _earlier(rollout: Rollout, view: View, h: int) -> tuple[Exchange, ...]:
    return tuple(Exchange(rollout.turns[k].answer, _critique(rollout, k)) for k in range(view.start, h))


def _answer(
    ctx: StepContext,
    rollouts: list[Rollout],
    views: list[View],
    which: Sequence[int],
    h: int,
    window: int | None,
) -> None:
    """Add an answer after the critique of turn h, in place, where the context leaves room for one."""
    prompts = {}
    for i in which:
        view = next_view(ctx, rollouts[i], views[i], window)
        if view is not None:
            views[i] = view
            prompts[i] = view.ids
    add_answers(ctx, rollouts, prompts, seed=derive_seed(ctx.seed, "turn", h + 1))


def next_view(ctx: StepContext, rollout: Rollout, view: View, window: int | None) -> View | None:
    """The student's context after the latest critique: the longest view that fits.

    None where not even the latest exchange does. `view` is the context before the criticised answer, `window`
    the maximum number of exchanges.
    """
    exchanges = len(rollout.turns)
    first = view.start if window is None else max(view.start, exchanges - window)
    for start in range(first, exchanges):
        if start == view.start:
            ids = (*ctx.renderer.before_thoughts(view.ids), *_exchange(ctx, rollout, exchanges - 1))
        else:
            ids = _question(ctx, rollout.problem, start)
            for k in range(start, exchanges):
                ids = (*ctx.renderer.before_thoughts(ids), *_exchange(ctx, rollout, k))
        if ctx.fits(ids):
            return View(start, ids)
    return None


def _exchange(ctx: StepContext, rollout: Rollout, k: int) -> Ids:
    """The ids of answer k and its critique, up to the start of the next answer."""
    turn = rollout.turns[k]
    answer = ctx.renderer.past_answer(turn)
    message = ctx.renderer.follow_up(
        _critique(rollout, k), ended=answer is not turn.completion_ids or turn.stop_reason == "eos"
    )
    return (*answer, *message)


def _question(ctx: StepContext, problem: Problem, left_out: int) -> Ids:
    """The question with the notice that exchanges were left out."""
    notice = NOTICE.format(number=left_out, attempts="attempt" if left_out == 1 else "attempts")
    asked = Message(role="user", content=problem.question + notice)
    return ctx.renderer.prompt((*problem.messages[:-1], asked))


def _critique(rollout: Rollout, k: int) -> str:
    feedback = rollout.feedback_on(k)
    return "" if feedback is None else feedback.text


def public_contexts(rollout: Rollout) -> list[tuple[Message, ...]]:
    """o_0, o_1, …: the conversation before any answer, after the first critique, after the second, …

    The list ends before the first turn without a usable critique.
    """
    exchanges: list[tuple[str, str]] = []
    contexts = [conversation(rollout.problem, exchanges)]
    for h, turn in enumerate(rollout.turns):
        feedback = rollout.feedback_on(h)
        if feedback is None:
            break
        exchanges.append((turn.answer, feedback.text))
        contexts.append(conversation(rollout.problem, exchanges))
    return contexts
