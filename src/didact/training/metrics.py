"""What a step looks like in numbers: its line of metrics.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from didact.engines.base import StepOutput
from didact.evaluation.alarms import repeated_share
from didact.evaluation.calibration import calibration
from didact.leakage import mentions_critique
from didact.methods.base import LossTerm
from didact.rollouts.self_critique_rollout import sampled_critique
from didact.types import Rollout


def rollout_metrics(rollouts: Sequence[Rollout], *, revises: bool = True) -> dict[str, float]:
    """What a batch of rollouts looks like; a mean over nothing is left out.

    `entropy` is the mean of −log π over the sampled tokens of first answers, in nats: at temperature 1
    without truncation a sampled estimate of the policy's entropy a token. `repeated_first` is the share of
    first answers' text that repeats itself, `leak_rate` the share of critiques that state the answer,
    `mentions_critique` the share of second answers that speak of their critique, which a first answer never
    could, and `second_turn_gain` what at most one critique adds to the share of right answers, in [−1, 1].
    `unrevised` is 0 unless the method `revises`: one that learns from the critique itself leaves nothing out.

    Where dialogues have a second branch with the policy's own critique, all this is of the critic's branch;
    what became of the other one has the same name and `_own`. How true the policy's own critiques are,
    `calibration` tells.
    """
    critics = [r for r in rollouts if sampled_critique(r) is None]
    own = [r for r in rollouts if sampled_critique(r) is not None]
    first = [r.turns[0] for r in critics]
    # The first answer of the policy's own branch is the critic's branch's once more.
    turns = [t for r in critics for t in r.turns] + [t for r in own for t in r.turns[1:]]
    said = [f for r in rollouts for f in r.feedback]
    heard = [f.text for r in critics for f in r.feedback if f.ok]
    means = _means(
        correct_first=[t.correct for t in first if t.reward is not None],
        reward_first=[t.reward for t in first if t.reward is not None],
        entropy=[-logprob for t in first for logprob in t.logprobs or ()],
        length_first=[len(t.completion_ids) for t in first],
        repeated_first=[repeated_share(t.text) for t in first],
        cut_off=[t.stop_reason == "length" for t in turns],
        leak_rate=[f.leaks for f in said if f.leaks is not None],
    )
    branch = second_turns(own)
    known = Counter(r.group for r in critics if r.turns[0].reward is not None and not r.feedback_failed(0))
    sizes = Counter(r.group for r in critics)
    counts = {
        # A group whose other answers are missing has nothing to be compared with.
        "groups_skipped": sum(size > 1 and known[group] < 2 for group, size in sizes.items()),
        "second_turns": sum(len(r.turns) > 1 for r in critics),
        "critiques": len(heard),
        "distinct_critiques": len(set(heard)),
        "feedback_failed": sum(r.feedback_failed(0) for r in critics),
        "feedback_cost_usd": sum(f.provenance.cost_usd for f in said),
        "unverified": sum(t.reward is None for t in turns),
        # A critique was there, but the revision's prompt would not fit into the model.
        "unrevised": sum(revises and r.feedback_on(0) is not None and len(r.turns) == 1 for r in rollouts),
    }
    return {
        **means,
        **second_turns(critics),
        **{f"{name}_own": value for name, value in branch.items()},
        **calibration(rollouts),
        **counts,
    }


def second_turns(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What became of first answers after one critique; a mean over nothing is left out.

    `second_turn_gain` is over dialogues whose critic did not fail, those that stopped at a right answer too.
    """
    second = [r.turns[1] for r in rollouts if len(r.turns) > 1]
    whole = [
        r for r in rollouts if not r.feedback_failed(0) and all(t.reward is not None for t in r.turns[:2])
    ]
    return _means(
        correct_second=[t.correct for t in second if t.reward is not None],
        length_second=[len(t.completion_ids) for t in second],
        mentions_critique=[mentions_critique(t.answer) for t in second],
        second_turn_gain=[r.turns[:2][-1].correct - r.turns[0].correct for r in whole] if second else [],
    )


def term_metrics(term: LossTerm, output: StepOutput) -> dict[str, float]:
    """A term's loss, its sums over tokens and its gradient's norm and cosine, as `NAME/TERM`.

    `off_policy_per_token` is `off_policy` by `tokens`: of a term that trains one prompt on what another
    sampled, an estimate of KL(sampled ‖ trained) in nats a token. It is over the trained tokens alone, and
    comes from log-probs that the loss needs anyway.
    """
    values = {"loss": output.loss, **output.metrics, "rows": len(term.rows)}
    if "off_policy" in values and values.get("tokens"):
        values["off_policy_per_token"] = values["off_policy"] / values["tokens"]
    return {f"{name}/{term.name}": value for name, value in values.items()}


def _means(**values: Sequence[float]) -> dict[str, float]:
    return {name: float(np.mean(found)) for name, found in values.items() if found}
