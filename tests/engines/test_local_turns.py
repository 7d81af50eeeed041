"""States kept from turn to turn: what was read before is not read again, and nothing else changes."""

import dataclasses

import pytest
import torch

from didact.engines.base import POLICY, AdamParams, Loss, SamplingParams, reuse_prefix_cache
from didact.engines.local.kv_cache import PrefixCache, make_cache
from didact.types import Row

PARAMS = SamplingParams(max_tokens=6, temperature=1.0)
QUESTIONS = [(5, 6, 7, 8), (9, 10, 11), (5, 6, 7, 8, 9, 12, 13)]
CRITIQUES = [(14, 15), (16, 17, 18, 19), (20,)]


@pytest.fixture
def engine(make_engine, make_model, shape):
    model = make_model(shape)
    model.generation_config.eos_token_id = list(range(1, 260, 10))  # so that rows end at different steps
    return make_engine(shape, model=model)


@pytest.fixture
def plain(make_engine):
    """Every layer of this shape attends to all that was before."""
    return make_engine("qwen3")


@pytest.fixture
def read(plain):
    """How many ids each row had that the model was given, a call each."""
    lengths = []
    hook = plain.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    yield lengths
    hook.remove()


def dialogue(engine, turns=3, n=1, seed=0):
    """Every prompt and what was sampled on it, turn by turn."""
    prompts, said = list(QUESTIONS), []
    for h in range(turns):
        groups = engine.sample(prompts, n, PARAMS, seed=seed + h)
        said.append((tuple(prompts), groups))
        prompts = [
            (*p, *g[0].ids, *CRITIQUES[i]) for i, (p, g) in enumerate(zip(prompts, groups, strict=True))
        ]
    return said


def test_a_conversation_is_what_it_is_without_anything_kept(engine):
    alone = dialogue(engine)
    with reuse_prefix_cache(engine):
        together = dialogue(engine)
    for (prompts, groups), (prompts_kept, groups_kept) in zip(alone, together, strict=True):
        assert prompts == prompts_kept
        for (sample,), (kept,) in zip(groups, groups_kept, strict=True):
            assert (sample.ids, sample.stop_reason) == (kept.ids, kept.stop_reason)
            assert kept.logprobs == pytest.approx(sample.logprobs, rel=1e-4, abs=1e-4)


def test_log_probs_of_later_turns_are_those_of_a_forward_pass(engine):
    with reuse_prefix_cache(engine):
        said = dialogue(engine, turns=4)
    for prompts, groups in said:
        rows = [Row.from_completion(p, g[0].ids) for p, g in zip(prompts, groups, strict=True)]
        for row, (sample,) in zip(engine.logprobs(rows), groups, strict=True):
            assert row[-len(sample.ids) :] == pytest.approx(sample.logprobs, rel=1e-4, abs=1e-4)


def test_only_what_is_new_is_read(plain, read):
    with reuse_prefix_cache(plain):
        [(_, groups)] = dialogue(plain, turns=1)
        read.clear()
        prompts = [(*p, *g[0].ids, *c) for p, g, c in zip(QUESTIONS, groups, CRITIQUES, strict=True)]
        plain.sample(prompts, 2, PARAMS, seed=1)
    # An answer's last id was never read, and the longest critique has four.
    assert read[0] == 1 + max(map(len, CRITIQUES))


def test_nothing_is_kept_outside_or_from_one_conversation_to_the_next(plain, read):
    with reuse_prefix_cache(plain):
        plain.sample([QUESTIONS[0]], 1, PARAMS, seed=0)
    [[sample]] = plain.sample([QUESTIONS[0]], 1, PARAMS, seed=0)
    follow_up = (*QUESTIONS[0], *sample.ids, 14)
    read.clear()
    plain.sample([follow_up], 1, PARAMS, seed=1)
    with reuse_prefix_cache(plain):
        plain.sample([follow_up], 1, PARAMS, seed=1)
    assert [length for length in read if length > 1] == [len(follow_up)] * 2


def test_a_prompt_without_a_past_makes_the_whole_batch_read(plain, read):
    stranger = (30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47)
    with reuse_prefix_cache(plain):
        [[sample]] = plain.sample([QUESTIONS[0]], 1, PARAMS, seed=0)
        follow_up = (*QUESTIONS[0], *sample.ids, 14)
        read.clear()
        kept = plain.sample([follow_up, stranger], 1, PARAMS, seed=1)
    assert read[0] == len(stranger)
    assert [g[0].ids for g in kept] == [
        g[0].ids for g in plain.sample([follow_up, stranger], 1, PARAMS, seed=1)
    ]


def test_weights_have_states_of_their_own(plain):
    start = plain.snapshot()
    row = Row.from_completion(QUESTIONS[0], (6, 7, 8))
    plain.forward_backward([row], Loss("cross_entropy"))
    plain.optim_step(AdamParams(lr=1e-2))
    alone = [plain.sample([QUESTIONS[0]], 1, PARAMS, seed=0, weights=w) for w in (POLICY, start)]
    follow_up = (*QUESTIONS[0], *alone[0][0][0].ids, 14)
    wanted = [plain.sample([follow_up], 1, PARAMS, seed=1, weights=w)[0][0] for w in (POLICY, start)]
    with reuse_prefix_cache(plain):
        plain.sample([QUESTIONS[0]], 1, PARAMS, seed=0)
        found = [plain.sample([follow_up], 1, PARAMS, seed=1, weights=w)[0][0] for w in (POLICY, start)]
    for one, other in zip(wanted, found, strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, rel=1e-4, abs=1e-4)


def test_rows_that_end_early_are_kept_up_to_their_end(engine):
    """A row that is done is carried on with rubbish until enough are done; that is no part of it."""
    params = dataclasses.replace(PARAMS, max_tokens=24)
    [drawn] = engine.sample([QUESTIONS[1]], 8, params, seed=3)
    assert len({len(s.ids) for s in drawn}) > 2
    prompts = [(*QUESTIONS[1], *s.ids, 14, 15) for s in drawn]
    wanted = engine.sample(prompts, 1, PARAMS, seed=4)
    with reuse_prefix_cache(engine):
        assert engine.sample([QUESTIONS[1]], 8, params, seed=3) == [drawn]
        found = engine.sample(prompts, 1, PARAMS, seed=4)
    for (one,), (other,) in zip(wanted, found, strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, rel=1e-4, abs=1e-4)


def test_the_oldest_leave_when_there_is_no_room(plain):
    kept = PrefixCache(room=10)
    cache = make_cache(plain.model.config, 8)
    with torch.inference_mode():
        plain.model(input_ids=torch.tensor([[5, 6, 7, 8]]), past_key_values=cache, use_cache=True)
    for ids in ((5, 6, 7, 8), (5, 6, 7, 9), (5, 6, 8, 9)):
        kept.keep(cache, 0, 0, ids)
    assert list(kept._states) == [(5, 6, 7, 9), (5, 6, 8, 9)]
    kept.keep(cache, 0, 0, tuple(range(11)))
    assert len(kept._states) == 2
