"""question → answer → critique → answer → critique …  in ONE growing conversation (RL2F, arXiv:2602.16066).

    o_0 = question,   u_t ~ student(o_t),   c_t ~ teacher(o_t, u_t, k),   o_{t+1} = o_t · u_t · c_t

The student sees o only; the teacher also sees k, which is the reference (static) or what a program says of
this very answer (dynamic). It speaks after wrong answers alone, and the dialogue ends at a right answer or
after T of them. (One that says so, `speaks_after_right`, is asked about right answers too: the dialogue goes
on after one of which something false was said.) So k reaches the student through the teacher's words and the
moment of stopping, and through nothing else: a student's ids are the question's, those that were sampled, and
those of the teacher's text.

A prompt is the ids so far and the rendered new message; no sampled id is encoded again. A dialogue that has
grown too long for the model, or beyond `window` exchanges, loses exchanges from the middle: the question and
the latest exchanges stay, a notice behind the question says how many are gone, and the teacher's view loses
the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from didact.controls.adversarial_teacher import is_false
from didact.engines.base import reuse_prefix_cache
from didact.feedback_source import Exchange, FeedbackRequest, speaks_after_right
from didact.rng import derive_seed
from didact.rollouts.base import StepContext, add_answers
from didact.rollouts.single_turn import recorded_turn, single_turn
from didact.types import Ids, Message, Problem, Rollout, Turn

NOTICE = "\n\n[… {number} earlier {attempts} left out …]"
"""Stands behind the question of a dialogue that was shortened."""


class View(NamedTuple):
    """What the student is shown before an answer."""

    start: int
    """The first exchange in it; those before were left out."""
    ids: Ids


def didactic(
    ctx: StepContext,
    problems: Sequence[Problem],
    n: int,
    *,
    turns: int = 4,
    window: int | None = None,
    early_stop: bool = True,
) -> list[Rollout]:
    """n dialogues for each problem, of at most `turns` answers in one conversation.

    First answers are sampled, or taken from `ctx.recorded`.

    Args:
        ctx: This step's context; with more than one turn, its feedback source is the teacher.
        problems: P problems.
        n: Dialogues a problem, ≥ 1.
        turns: T ≥ 1, answers a dialogue.
        window: At most so many earlier exchanges in view, ≥ 1; None for all that fit the model.
        early_stop: A right answer ends the dialogue. Off where nobody may know that it is right.

    Returns:
        P·n rollouts. Fewer turns where the answer was right, the teacher failed (the failed feedback is
        kept) or not even the latest exchange leaves room for an answer.
    """
    first = single_turn if ctx.recorded is None else recorded_turn
    with reuse_prefix_cache(ctx.engine):
        rollouts = first(ctx, problems, n)
        views = [View(0, rollout.turns[0].prompt_ids) for rollout in rollouts]
        for h in range(turns - 1):
            heard = _taught(ctx, rollouts, views, h, early_stop=early_stop)
            _answered(ctx, rollouts, views, heard, h, window)
    return rollouts


def _taught(
    ctx: StepContext, rollouts: list[Rollout], views: Sequence[View], h: int, *, early_stop: bool
) -> list[int]:
    """Have the answers of turn h criticised, in place; the rollouts that go on with what was said."""
    # A teacher may be there who also talks about right answers, to train the student to stay with them.
    ends = early_stop and not speaks_after_right(ctx.critic)
    open_ = [i for i, r in enumerate(rollouts) if len(r.turns) == h + 1 and not (ends and r.turns[h].correct)]
    if not open_:
        return []
    requests = [
        FeedbackRequest(
            rollouts[i].problem, rollouts[i].turns[h], h, _earlier(rollouts[i], views[i], h), rollouts[i].id
        )
        for i in open_
    ]
    heard = []
    for i, said in zip(open_, ctx.critic.critique(requests), strict=True):
        done = early_stop and rollouts[i].turns[h].correct
        if said.ok or not done:  # who has nothing to say of a right answer has not failed
            rollouts[i] = rollouts[i].model_copy(update={"feedback": (*rollouts[i].feedback, said)})
        if said.ok and (is_false(said) or not done):
            heard.append(i)
    return heard


def _earlier(rollout: Rollout, view: View, h: int) -> tuple[Exchange, ...]:
    return tuple(Exchange(rollout.turns[k].text, _said(rollout, k)) for k in range(view.start, h))


def _answered(
    ctx: StepContext,
    rollouts: list[Rollout],
    views: list[View],
    heard: Sequence[int],
    h: int,
    window: int | None,
) -> None:
    """Add an answer after the critique of turn h, in place, where the conversation leaves room for one."""
    prompts = {}
    for i in heard:
        found = next_view(ctx, rollouts[i], views[i], window)
        if found is not None:
            views[i] = found
            prompts[i] = found.ids
    add_answers(ctx, rollouts, prompts, seed=derive_seed(ctx.seed, "turn", h + 1))


def next_view(ctx: StepContext, rollout: Rollout, view: View, window: int | None) -> View | None:
    """What the student sees after the latest critique.

    Args:
        ctx: Its renderer and the model's length.
        rollout: A dialogue whose last turn was criticised.
        view: What the student saw before that turn.
        window: At most so many exchanges.

    Returns:
        The longest view that fits; None where not even the latest exchange does.
    """
    exchanges = len(rollout.turns)
    first = view.start if window is None else max(view.start, exchanges - window)
    for start in range(first, exchanges):
        if start == view.start:
            ids = (*view.ids, *_exchange(ctx, rollout, exchanges - 1))
        else:
            ids = _question(ctx, rollout.problem, start)
            for k in range(start, exchanges):
                ids = (*ids, *_exchange(ctx, rollout, k))
        if ctx.fits(ids):
            return View(start, ids)
    return None


def _exchange(ctx: StepContext, rollout: Rollout, k: int) -> Ids:
    """The ids of an answer and of what was said about it, ready for the next answer."""
    return (*rollout.turns[k].completion_ids, *followed(ctx, rollout.turns[k], _said(rollout, k)))


def followed(ctx: StepContext, turn: Turn, said: str) -> Ids:
    """The ids that a message adds behind a turn."""
    return ctx.renderer.follow_up(said, ended=turn.stop_reason == "eos")


def _question(ctx: StepContext, problem: Problem, left_out: int) -> Ids:
    """The question with a notice of how many exchanges behind it are gone."""
    notice = NOTICE.format(number=left_out, attempts="attempt" if left_out == 1 else "attempts")
    asked = Message(role="user", content=problem.question + notice)
    return ctx.renderer.prompt((*problem.messages[:-1], asked))


def _said(rollout: Rollout, k: int) -> str:
    said = rollout.feedback_on(k)
    return "" if said is None else said.text
