"""Sampling: what it draws, when it stops, and that its log-probs are the model's."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import MinNewTokensLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor

from didact.engines.base import REFERENCE, AdamParams, Loss, SamplingParams
from didact.engines.local import LoraSettings
from didact.engines.local.sampling import draw, penalised, why_stop
from didact.errors import NonFiniteError, UsageError

# Lengths 3, 21, 1 and 40: shorter and longer than the sliding window of the gemma3 and mistral shapes.
PROMPTS = [(5, 6, 7), tuple(range(10, 31)), (9,), tuple(range(200, 240))]


def with_many_eos(model):
    """About one token in ten ends a completion, so that rows finish at different steps."""
    model.generation_config.eos_token_id = list(range(1, 260, 10))
    return model


@torch.inference_mode()
def full_forward_logprobs(model, prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    logprobs_TV = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return [float(logprobs_TV[len(prompt) - 1 + t, token]) for t, token in enumerate(completion)]


def test_sampling_logprobs_are_those_of_a_full_forward(make_engine, make_model, shape):
    engine = make_engine(shape, model=with_many_eos(make_model(shape)))
    samples = engine.sample(PROMPTS, 3, SamplingParams(max_tokens=16, temperature=0.8, top_p=0.9), seed=0)
    model = make_model(shape)
    for prompt, group in zip(PROMPTS, samples, strict=True):
        assert len(group) == 3
        for sample in group:
            expected = full_forward_logprobs(model, prompt, sample.ids)
            assert sample.logprobs == pytest.approx(expected, abs=1e-4)
    assert "eos" in {s.stop_reason for group in samples for s in group}


def test_greedy_sampling_takes_the_tokens_that_generate_takes(make_engine, make_model, shape):
    samples = make_engine(shape).sample(PROMPTS, 1, SamplingParams(max_tokens=16, temperature=0), seed=0)
    model = make_model(shape)
    for prompt, [sample] in zip(PROMPTS, samples, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16)
        assert sample.ids == tuple(out[0, len(prompt) :].tolist())


# ── penalties ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.6},
        {"min_tokens": 9},
        {"repetition_penalty": 1.3, "min_tokens": 5},
    ],
)
def test_penalties_take_the_tokens_that_generate_takes(make_engine, make_model, shape, settings):
    """Greedy, with prompts of unlike length in one batch, and rows that leave it; log-probs stay π's own."""
    engine = make_engine(shape, model=with_many_eos(make_model(shape)))
    params = SamplingParams(max_tokens=16, temperature=0, **settings)
    samples = engine.sample(PROMPTS, 2, params, seed=0)
    model = with_many_eos(make_model(shape))
    theirs = {"min_tokens": "min_new_tokens"}
    named = {theirs.get(name, name): value for name, value in settings.items()}
    for prompt, group in zip(PROMPTS, samples, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=16,
            pad_token_id=0,
            **named,
        )
        for sample in group:
            assert sample.ids == tuple(out[0, len(prompt) :].tolist())
            assert sample.logprobs == pytest.approx(
                full_forward_logprobs(model, prompt, sample.ids), abs=1e-4
            )


@given(
    st.lists(st.floats(-9, 9, width=32), min_size=6, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.floats(0.25, 4),
    st.integers(0, 3),
)
def test_penalised_logits_are_those_of_transformers(logits, ids, theta, least):
    """Prompt: all ids but the last, completion: the last; ends are 2 and 4."""
    scores_BV, ids_BT = torch.tensor([logits]), torch.tensor([ids])
    expected_BV = RepetitionPenaltyLogitsProcessor(theta)(ids_BT, scores_BV.clone())
    if least:
        processor = MinNewTokensLengthLogitsProcessor(len(ids) - 1, least, [2, 4])
        expected_BV = processor(ids_BT, expected_BV)
    seen_BV = torch.zeros(1, 6, dtype=torch.bool)
    seen_BV[0, ids] = True
    params = SamplingParams(repetition_penalty=theta, min_tokens=least)
    found_BV = penalised(scores_BV, seen_BV, 1, params, {2, 4, 999})
    torch.testing.assert_close(found_BV, expected_BV)


def test_without_penalties_the_logits_are_the_same_object():
    logits_BV = torch.randn(2, 5)
    assert penalised(logits_BV, None, 0, SamplingParams(), {1}) is logits_BV


def test_sampled_frequencies_match_the_penalised_softmax(make_engine, make_model):
    prompt, n = (5, 6, 7), 4000
    params = SamplingParams(max_tokens=1, repetition_penalty=3.0, min_tokens=1)
    engine = make_engine(model=with_many_eos(make_model()))
    [samples] = engine.sample([prompt], n, params, seed=0)
    with torch.inference_mode():
        logits_BV = make_model()(input_ids=torch.tensor([prompt])).logits[:, -1]
    penalised_BV = RepetitionPenaltyLogitsProcessor(3.0)(torch.tensor([prompt]), logits_BV.clone())
    penalised_BV[:, list(range(1, 260, 10))] = -math.inf
    probs_V = penalised_BV[0].softmax(-1).double().numpy()
    counts_V = np.bincount([s.ids[0] for s in samples], minlength=len(probs_V))
    assert counts_V[probs_V == 0].sum() == 0
    likely = probs_V * n >= 5
    observed = [*counts_V[likely], counts_V[~likely].sum()]
    expected = np.array([*probs_V[likely], probs_V[~likely].sum()])
    assert chisquare(observed, n * expected / expected.sum()).pvalue > 1e-4
    logprobs_V = logits_BV[0].log_softmax(-1)
    for sample in samples[:50]:
        assert sample.logprobs[0] == pytest.approx(float(logprobs_V[sample.ids[0]]), abs=1e-4)


def test_a_stop_string_ends_nothing_before_the_least_length():
    class Tokenizer:
        def decode(self, ids, **settings):
            return "".join(map(chr, ids))

    params = SamplingParams(max_tokens=9, stop=("ab",), min_tokens=3)
    at = [
        why_stop(list(map(ord, "ab"[:n] + "xxab"[: max(0, n - 2)])), params, Tokenizer(), ())
        for n in (2, 3, 6)
    ]
    assert at == [None, None, "stop"]


@pytest.mark.parametrize(
    "bad", [{"repetition_penalty": 0.0}, {"repetition_penalty": math.nan}, {"min_tokens": -1}]
)
def test_penalties_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SamplingParams(**bad)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_frequencies_match_the_softmax(make_engine, make_model, temperature):
    prompt, n = (5, 6, 7), 4000
    params = SamplingParams(max_tokens=1, temperature=temperature)
    [samples] = make_engine().sample([prompt], n, params, seed=0)
    with torch.inference_mode():
        logits_V = make_model()(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected_V = n * (logits_V.double() / temperature).softmax(-1).numpy()
    counts = Counter(s.ids[0] for s in samples)
    observed_V = np.array([counts[v] for v in range(len(expected_V))], dtype=float)
    common = expected_V >= 5
    observed = [*observed_V[common], observed_V[~common].sum()]
    expected = [*expected_V[common], expected_V[~common].sum()]
    assert chisquare(observed, expected).pvalue > 0.01


def test_a_draw_inverts_the_cumulative_distribution():
    logits_BV = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(5, 4)
    uniforms_B = torch.tensor([0.0, 0.49, 0.51, 0.94, 0.96], dtype=torch.float64)
    ids_B, logprobs_B = draw(logits_BV, uniforms_B, SamplingParams())
    assert ids_B.tolist() == [0, 0, 1, 2, 3]
    assert logprobs_B.exp().tolist() == pytest.approx([0.5, 0.5, 0.3, 0.15, 0.05])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 1}, {2}),
        ({"top_k": 3}, {2, 0, 3}),
        ({"top_p": 0.5}, {2}),
        ({"top_p": 0.51}, {2, 0}),
        ({"top_p": 0.81}, {2, 0, 3}),
        ({"top_k": 2, "top_p": 0.6}, {2}),  # of the two that are left, the first has 5/8
        ({"top_k": 2, "top_p": 0.7}, {2, 0}),
    ],
)
def test_top_k_and_top_p_keep_the_likeliest_tokens_only(settings, kept):
    uniforms_B = torch.linspace(0, 1, 1001, dtype=torch.float64)  # 1 itself included
    logits_BV = torch.tensor([[0.3, 0.05, 0.5, 0.15]]).log().expand(len(uniforms_B), 4)
    ids_B, logprobs_B = draw(logits_BV, uniforms_B, SamplingParams(**settings))
    assert set(ids_B.tolist()) == kept
    # Log-probs are those before truncation.
    assert torch.equal(logprobs_B, logits_BV.log_softmax(-1).gather(-1, ids_B[:, None])[:, 0])


def test_a_draw_never_takes_a_token_of_probability_zero():
    uniforms_B = torch.tensor([0.0, 1 - 2**-53, 1.0], dtype=torch.float64)
    logits_BV = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf]]).expand(3, 4)
    ids_B, _ = draw(logits_BV, uniforms_B, SamplingParams())
    assert ids_B.tolist() == [1, 2, 2]


def test_a_completion_ends_with_the_first_stop_string_and_includes_it(make_engine, tokenizer):
    engine = make_engine()
    free = engine.sample(PROMPTS, 4, SamplingParams(max_tokens=60), seed=1)

    def printable(token):
        return tokenizer.decode([token]).isascii() and tokenizer.decode([token]).isalpha()

    checked = 0
    for i, group in enumerate(free):
        for j, sample in enumerate(group):
            pairs = [t for t in range(5, len(sample.ids) - 1) if all(map(printable, sample.ids[t : t + 2]))]
            if not pairs:
                continue
            stop = tokenizer.decode(sample.ids[pairs[0] : pairs[0] + 2])
            stopped = engine.sample(PROMPTS, 4, SamplingParams(max_tokens=60, stop=(stop, "zzzz")), seed=1)
            found = stopped[i][j]
            assert found.stop_reason == "stop"
            assert found.ids == sample.ids[: len(found.ids)]
            assert tokenizer.decode(found.ids).endswith(stop)
            assert tokenizer.decode(found.ids).count(stop) == 1
            checked += 1
            break  # one a prompt is enough
    assert checked >= 2


def test_a_stop_string_of_several_bytes_stops_at_its_last_byte(tokenizer):
    params = SamplingParams(max_tokens=100, stop=("né→",))
    ids = tokenizer.encode("Eugénie, née né→ and on")
    reasons = [why_stop(ids[: t + 1], params, tokenizer, {1}) for t in range(len(ids))]
    end = len(tokenizer.encode("Eugénie, née né→"))
    assert reasons.index("stop") == end - 1


def test_eos_goes_before_stop_and_stop_before_length(tokenizer):
    params = SamplingParams(max_tokens=2, stop=("<eos>", "b"))
    a, b = tokenizer.encode("ab")
    assert why_stop([a, 1], params, tokenizer, {1}) == "eos"
    assert why_stop([a, b], params, tokenizer, {1}) == "stop"
    assert why_stop([a, a], params, tokenizer, {1}) == "length"
    assert why_stop([a], params, tokenizer, {1}) is None


def test_without_an_end_every_completion_has_max_tokens(make_engine):
    engine = make_engine()
    engine.tokenizer, engine.model.generation_config.eos_token_id = _NoEos(), None
    for group in engine.sample(PROMPTS, 2, SamplingParams(max_tokens=7), seed=0):
        assert [(len(s.ids), len(s.logprobs), s.stop_reason) for s in group] == [(7, 7, "length")] * 2


class _NoEos:
    eos_token_id = None


def test_the_eos_ids_of_tokenizer_and_generation_config_both_end_a_completion(make_engine, make_model):
    engine = make_engine(model=with_many_eos(make_model()))
    samples = engine.sample(PROMPTS, 8, SamplingParams(max_tokens=60), seed=0)
    ends = {s.ids[-1] for group in samples for s in group if s.stop_reason == "eos"}
    assert len(ends) > 3
    for group in samples:
        for sample in group:
            assert not set(sample.ids[:-1]) & set(range(1, 260, 10))


def test_a_samples_draws_do_not_depend_on_the_batch_it_is_in(make_engine, make_model):
    params = SamplingParams(max_tokens=20)
    together = make_engine(model=with_many_eos(make_model())).sample(PROMPTS, 4, params, seed=3)
    in_pairs = make_engine(model=with_many_eos(make_model()), tokens_per_batch=16)
    ids = [[s.ids for s in group] for group in together]
    assert [[s.ids for s in g] for g in in_pairs.sample(PROMPTS, 4, params, seed=3)] == ids
    assert [[s.ids for s in g] for g in in_pairs.sample(PROMPTS[:1], 2, params, seed=3)] == [ids[0][:2]]
    longer = in_pairs.sample(PROMPTS, 4, SamplingParams(max_tokens=30), seed=3)
    assert [[s.ids[:20] for s in g] for g in longer] == ids


def test_equal_seeds_give_equal_samples_and_others_do_not(make_engine):
    engine, params = make_engine(), SamplingParams(max_tokens=12)
    first = engine.sample(PROMPTS, 2, params, seed=0)
    assert engine.sample(PROMPTS, 2, params, seed=0) == first
    assert engine.sample(PROMPTS, 2, params, seed=1) != first
    assert first[0][0].ids != first[0][1].ids


def test_samples_can_come_from_a_snapshot_or_the_reference(make_engine, rows):
    engine, params = make_engine(lora=LoraSettings(rank=4)), SamplingParams(max_tokens=12)
    start = engine.sample(PROMPTS, 2, params, seed=0)
    steps = []
    for _ in range(2):
        engine.forward_backward(rows, Loss("ppo"))
        engine.optim_step(AdamParams(lr=1e-2))
        steps.append((engine.snapshot(), engine.sample(PROMPTS, 2, params, seed=0)))
    assert engine.sample(PROMPTS, 2, params, seed=0, weights=REFERENCE) == start
    for snapshot, samples in steps:
        assert engine.sample(PROMPTS, 2, params, seed=0, weights=snapshot) == samples != start


def test_each_distinct_prompt_is_read_once_and_finished_rows_leave_the_batch(make_engine, make_model):
    engine = make_engine(model=with_many_eos(make_model()))
    shapes = []
    engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    engine.sample([(5, 6), (7, 8), (5, 6)], 8, SamplingParams(max_tokens=30), seed=0)
    assert shapes[0] == (2, 2)
    batch_sizes = [rows for rows, _ in shapes[1:]]
    assert batch_sizes[0] <= 24
    assert batch_sizes == sorted(batch_sizes, reverse=True)
    assert batch_sizes[-1] <= 6


def test_sampling_leaves_gradients_and_parameters_alone(make_engine):
    engine = make_engine()
    before = engine.weights_hash()
    engine.sample(PROMPTS, 2, SamplingParams(max_tokens=4), seed=0)
    assert engine.weights_hash() == before
    assert all(p.requires_grad and p.grad is None for p in engine.model.parameters())


def test_no_prompts_give_no_samples(make_engine):
    assert make_engine().sample([], 4, SamplingParams(), seed=0) == []


@pytest.mark.parametrize(
    ("prompts", "n", "max_tokens", "message"),
    [
        ([(5,), ()], 1, 4, "prompt 1 is empty"),
        ([(5,) * 100], 1, 29, r"prompt 0 has 100 tokens.*max_tokens=29.*128"),
        ([(5, 260)], 1, 4, "outside 0 to 259"),
        ([(5,)], 0, 4, "n must be at least 1"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(make_engine, prompts, n, max_tokens, message):
    with pytest.raises(UsageError, match=message):
        make_engine().sample(prompts, n, SamplingParams(max_tokens=max_tokens), seed=0)


def test_broken_weights_stop_sampling_with_a_reason(make_engine):
    engine = make_engine()
    with torch.no_grad():
        next(engine.model.parameters()).fill_(math.nan)
    with pytest.raises(NonFiniteError, match="log-probs"):
        engine.sample([(5,)], 1, SamplingParams(max_tokens=2), seed=0)
