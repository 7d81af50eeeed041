"""VLLMEngine against vLLM's endpoints with a tiny model behind them; vLLM itself does not run."""

import asyncio
import copy
import shutil
import threading

import numpy as np
import pytest

from didact.engines.base import POLICY, REFERENCE, AdamParams, Loss, SamplingParams
from didact.engines.local import LoraSettings
from didact.engines.probe import probe
from didact.engines.vllm import StaleWeightsError, VLLMEngine, vllm_server
from didact.errors import CapabilityError, DataError, TrainingGuard, UsageError
from didact.llm.http import ClientError, HttpServer, RetryPolicy, ServerError
from didact.types import Row
from tests.vllm_server import BASE, VllmServer

PROMPTS = [(70, 71, 72), (80, 81, 82, 83, 84)]
PARAMS = SamplingParams(max_tokens=8, temperature=0.7)
COMPLETIONS = "/v1/completions"
LOAD = "/v1/load_lora_adapter"


def at_once(max_retries=4):
    """Retries that do not wait."""

    async def sleep(seconds):
        await asyncio.sleep(0)

    return RetryPolicy(max_retries, sleep=sleep)


@pytest.fixture
def serve(make_engine):
    """serve(lora=…, …) → a running stand-in whose model is the trainer's starting model."""
    running = []

    def start(lora=None, **arguments):
        running.append(VllmServer(make_engine(lora=lora), **arguments).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def make_vllm(make_model, tokenizer, tmp_path):
    """make_vllm(client, **settings) → an engine that trains an adapter."""

    def make(client, **settings):
        settings = {"lora": LoraSettings(rank=2), "device": "cpu", "dtype": "float32"} | settings
        return VLLMEngine(
            make_model(), tokenizer, server=client, shared_dir=tmp_path / "adapters", **settings
        )

    return make


@pytest.fixture
def lora(make_vllm, serve):
    """lora() → (engine, server) for an adapter as files."""

    def make(engine=None, max_retries=4, **arguments):
        server = serve(lora=LoraSettings(rank=2), **arguments)
        client = vllm_server(server.url, timeout=120, retries=at_once(max_retries))
        return make_vllm(client, **(engine or {})), server

    return make


def step(engine, lr=0.05):
    row = Row.from_completion(PROMPTS[0], (90, 91, 92))
    engine.forward_backward([row], Loss("cross_entropy"))
    engine.optim_step(AdamParams(lr=lr))


# ── sampling ──────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_server_samples_is_of_the_trained_weights(lora):
    engine, _ = lora()
    for _ in range(2):
        samples = engine.sample(PROMPTS, 3, PARAMS, seed=1)
        assert [len(own) for own in samples] == [3, 3]
        for prompt, own in zip(PROMPTS, samples, strict=True):
            rows = [Row.from_completion(prompt, s.ids) for s in own]
            for sample, scored in zip(own, engine.logprobs(rows), strict=True):
                np.testing.assert_allclose(scored[-len(sample.ids) :], sample.logprobs, atol=1e-4)
        step(engine)


def test_a_request_sets_every_parameter_that_has_a_server_default(lora):
    engine, server = lora()
    engine.sample([PROMPTS[0]], 2, SamplingParams(8, 0.5, 0.9, 5, ("ab",)), seed=[7])
    body = next(body for path, body in server.bodies if path == COMPLETIONS)
    assert body["prompt"] == list(PROMPTS[0])
    assert (body["n"], body["max_tokens"]) == (2, 8)
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0.5, 0.9, 5, 0.0)
    assert (body["repetition_penalty"], body["presence_penalty"], body["frequency_penalty"]) == (
        1.0,
        0.0,
        0.0,
    )
    assert body["stop"] == ["ab"]
    assert body["include_stop_str_in_output"]
    assert not body["skip_special_tokens"]
    assert body["stop_token_ids"] == [1]
    assert body["return_token_ids"]
    assert body["logprobs"] == 0
    assert 0 <= body["seed"] < 2**62


def test_a_request_stops_at_the_chat_templates_end_of_turn(lora, monkeypatch):
    engine, server = lora()
    turns = "{% for m in messages %}<unused2>{{ m.content }}<unused3>{% endfor %}"
    tokenizer = copy.deepcopy(engine.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<unused2>", "<unused3>"]})
    tokenizer.chat_template = turns
    for each in (engine, server.engine):
        monkeypatch.setattr(each, "tokenizer", tokenizer)
    samples = engine.sample(PROMPTS, 16, SamplingParams(100), seed=7)
    body = next(body for path, body in server.bodies if path == COMPLETIONS)
    assert body["stop_token_ids"] == [1, 3]
    assert {s.ids[-1] for own in samples for s in own if s.stop_reason == "eos"} == {1, 3}


def test_equal_seeds_give_equal_samples_and_a_prompt_does_not_depend_on_its_place(lora):
    engine, _ = lora()
    first = engine.sample(PROMPTS, 2, PARAMS, seed=[3, 4])
    assert engine.sample(PROMPTS, 2, PARAMS, seed=[3, 4]) == first
    assert engine.sample(PROMPTS[::-1], 2, PARAMS, seed=[4, 3]) == first[::-1]
    assert engine.sample(PROMPTS, 2, PARAMS, seed=9) != engine.sample(PROMPTS, 2, PARAMS, seed=10)
    twice = engine.sample([PROMPTS[0]] * 2, 2, PARAMS, seed=9)
    assert twice[0] != twice[1]


def test_stop_reasons_are_distinguished(lora, tokenizer):
    engine, _ = lora()
    params = SamplingParams(max_tokens=40, temperature=1.5)
    own = engine.sample(PROMPTS, 8, params, seed=0)
    reasons = {s.stop_reason for samples in own for s in samples}
    assert {"eos", "length"} <= reasons
    texts = [tokenizer.decode([i]) for samples in own for s in samples for i in s.ids[1:3]]
    word = next(text for text in texts if text.isascii() and text.isprintable())
    stopped = engine.sample(PROMPTS, 8, SamplingParams(40, 1.5, stop=(word,)), seed=0)
    assert "stop" in {s.stop_reason for samples in stopped for s in samples}


def test_the_reference_and_snapshots_sample_on_the_trainer(lora, make_engine):
    engine, server = lora()
    trainer = make_engine(lora=LoraSettings(rank=2))
    kept = engine.snapshot()
    for weights in (REFERENCE, kept):
        found = engine.sample(PROMPTS, 2, PARAMS, seed=1, weights=weights)
        assert found == trainer.sample(PROMPTS, 2, PARAMS, seed=1, weights=POLICY)
    assert server.calls == ["/v1/models"]


def test_the_trainer_can_score_what_the_server_samples(lora):
    def worthless(reply):
        for choice in reply["choices"]:
            choice["logprobs"]["token_logprobs"] = [-1.0] * len(choice["token_ids"])

    engine, _ = lora(engine={"logprobs": "trainer"}, spoil=worthless)
    for prompt, own in zip(PROMPTS, engine.sample(PROMPTS, 2, PARAMS, seed=1), strict=True):
        rows = [Row.from_completion(prompt, s.ids) for s in own]
        for sample, scored in zip(own, engine.logprobs(rows), strict=True):
            np.testing.assert_allclose(scored[-len(sample.ids) :], sample.logprobs, atol=1e-6)


def test_it_passes_the_conformance_probe(lora):
    engine, _ = lora()
    failed = [str(result) for result in probe(engine) if not result.holds]
    assert failed == []


# ── weights ───────────────────────────────────────────────────────────────────────────────────────────


def test_an_adapter_is_sent_only_when_it_changed(lora):
    engine, server = lora()
    engine.sample(PROMPTS, 1, PARAMS, seed=1)
    engine.sample(PROMPTS, 1, PARAMS, seed=2)
    assert server.count(LOAD) == 1
    step(engine)
    step(engine)
    assert server.count(LOAD) == 1
    engine.sample(PROMPTS, 1, PARAMS, seed=3)
    assert server.count(LOAD) == 2


def test_a_loaded_checkpoint_reaches_the_server(lora, tmp_path):
    engine, server = lora()
    engine.save(tmp_path)
    before = engine.sample(PROMPTS, 2, PARAMS, seed=5)
    step(engine)
    assert engine.sample(PROMPTS, 2, PARAMS, seed=5) != before
    engine.load(tmp_path)
    assert engine.sample(PROMPTS, 2, PARAMS, seed=5) == before
    assert server.count(LOAD) == 3


def test_an_adapter_has_a_new_name_each_time_and_the_old_one_goes(lora, tmp_path):
    engine, server = lora()
    for _ in range(3):
        engine.sample(PROMPTS, 1, PARAMS, seed=1)
        step(engine)
    asked = [body["model"] for path, body in server.bodies if path == COMPLETIONS]
    assert len(set(asked)) == 3
    assert BASE not in asked
    assert list(server.adapters) == [asked[-1]]
    assert [p.name for p in (tmp_path / "adapters").iterdir()] == [asked[-1]]


def test_a_server_that_was_restarted_is_noticed(lora):
    engine, server = lora()
    engine.sample(PROMPTS, 1, PARAMS, seed=1)
    server.adapters.clear()
    with pytest.raises(UsageError, match="restarted"):
        engine.sample(PROMPTS, 1, PARAMS, seed=1)


def test_an_adapter_that_did_not_arrive_is_noticed_by_its_log_probs(lora):
    """The name is right and the weights are not, as where the directory is another one on the server."""
    engine, server = lora()
    engine.sample(PROMPTS, 1, PARAMS, seed=1)
    step(engine, lr=0.3)
    [old] = server.adapters.values()
    kept = old.with_name("kept")
    shutil.copytree(old, kept)
    server.read_from = kept
    with pytest.raises(StaleWeightsError, match="nats a token"):
        engine.sample(PROMPTS, 1, PARAMS, seed=1)


def test_a_repeated_load_of_the_same_adapter_is_no_failure(lora):
    engine, server = lora(script={"/v1/load_lora_adapter": ["lost", None]})
    engine.sample(PROMPTS, 1, PARAMS, seed=1)
    assert server.count("/v1/load_lora_adapter") == 2


@pytest.mark.parametrize("status", ["404", "500"])
def test_a_server_without_lora_is_refused_with_the_cure(lora, tmp_path, status):
    engine, _ = lora(script={"/v1/load_lora_adapter": [status] * 9})
    with pytest.raises((UsageError, ServerError), match="ALLOW_RUNTIME_LORA_UPDATING"):
        engine.sample(PROMPTS, 1, PARAMS, seed=1)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_an_adapter_that_cannot_be_dropped_is_a_warning(lora, caplog):
    engine, _ = lora(script={"/v1/unload_lora_adapter": ["404"]})
    engine.sample(PROMPTS, 1, PARAMS, seed=1)
    step(engine)
    engine.sample(PROMPTS, 1, PARAMS, seed=1)
    assert "unused adapter" in caplog.text


def test_full_fine_tuning_is_refused_with_the_cure(make_vllm):
    with pytest.raises(CapabilityError, match=r"model\.lora"):
        make_vllm(vllm_server(), lora=None)


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "cut", "html", "lost"])
def test_a_sample_is_asked_for_again_after_a_passing_fault(lora, fault):
    engine, server = lora()
    expected = engine.sample(PROMPTS, 2, PARAMS, seed=1)
    server.script[COMPLETIONS] = [fault, fault]
    assert engine.sample(PROMPTS, 2, PARAMS, seed=1) == expected
    assert server.count(COMPLETIONS) == 6


def test_a_completion_that_the_server_broke_off_is_asked_for_again(lora):
    seen = []

    def abort(reply):
        seen.append(reply)
        if len(seen) == 1:
            reply["choices"][0]["finish_reason"] = "abort"

    engine, _ = lora(spoil=abort)
    engine.sample([PROMPTS[0]], 1, PARAMS, seed=1)
    assert len(seen) == 2


def test_it_gives_up_in_the_end(lora):
    engine, server = lora(max_retries=2)
    server.script[COMPLETIONS] = ["500"] * 99
    with pytest.raises(ServerError, match="after 3 tries"):
        engine.sample([PROMPTS[0]], 1, PARAMS, seed=1)
    server.script.clear()
    assert engine.sample([PROMPTS[0]], 1, PARAMS, seed=1)


def test_after_a_failure_it_goes_on_with_new_weights(lora):
    engine, server = lora(max_retries=0)
    server.script[COMPLETIONS] = ["500"]
    with pytest.raises(ServerError, match="after 1 try"):
        engine.sample([PROMPTS[0]], 1, PARAMS, seed=1)
    step(engine)
    assert engine.sample([PROMPTS[0]], 1, PARAMS, seed=1)


def test_a_silent_server_runs_into_the_timeout(serve):
    server = serve(script={"/v1/models": ["hang"]})
    client = vllm_server(server.url, timeout=0.2, retries=RetryPolicy(0))
    with pytest.raises(ServerError, match=r"0\.2 s"):
        get_models(client)


def get_models(server):
    return server.run(lambda session: session.request("GET", "/v1/models", parse=str))


def test_one_failure_ends_the_others_at_once(lora):
    """A request that hangs is not waited for when another is refused."""
    engine, server = lora(max_retries=0)
    engine.sample(PROMPTS, 1, PARAMS, seed=1)
    server.script[COMPLETIONS] = ["hang", "400"]
    server.arrived.clear()
    failed = []

    def sample():
        try:
            engine.sample(PROMPTS, 1, PARAMS, seed=1)
        except ClientError as refusal:
            failed.append(refusal.status)

    thread = threading.Thread(target=sample)
    thread.start()
    thread.join(60)  # the time limit of the request that hangs is 120 s
    assert failed == [400]


def nothing(choice):
    choice["logprobs"] = None


def short(choice):
    choice["logprobs"]["token_logprobs"].pop()


def not_a_number(choice):
    choice["logprobs"]["token_logprobs"][0] = float("nan")


def impossible(choice):
    choice["logprobs"]["token_logprobs"][0] = -9999.0


def logits(choice):
    choice["logprobs"]["token_logprobs"][0] = 3.5


def no_ids(choice):
    choice["token_ids"] = None


def text_ids(choice):
    choice["token_ids"] = [str(i) for i in choice["token_ids"]]


def other_prompt(choice):
    choice["prompt_token_ids"] = [1, *choice["prompt_token_ids"]]


def test_penalties_go_to_the_server_and_log_probs_stay_the_models(lora):
    engine, server = lora()
    params = SamplingParams(max_tokens=8, temperature=0.7, repetition_penalty=1.5, min_tokens=5)
    samples = engine.sample([PROMPTS[0]], 3, params, seed=1)[0]  # the first ones are scored here too
    body = next(body for path, body in server.bodies if path == COMPLETIONS)
    assert (body["repetition_penalty"], body["min_tokens"]) == (1.5, 5)
    assert min(len(sample.ids) for sample in samples) >= 6
    scored = engine.logprobs([Row.from_completion(PROMPTS[0], s.ids) for s in samples])
    for sample, logprobs in zip(samples, scored, strict=True):
        np.testing.assert_allclose(logprobs[-len(sample.ids) :], sample.logprobs, atol=1e-4)


def test_a_server_that_ignores_the_least_length_is_an_error(lora):
    def ends_early(reply):
        for choice in reply["choices"]:
            choice["finish_reason"], choice["stop_reason"] = "stop", None
            choice["token_ids"], choice["logprobs"]["token_logprobs"] = [7, 7, 1], [-1.0, -1.0, -1.0]

    engine, _ = lora(spoil=ends_early)
    with pytest.raises(ServerError, match="min_tokens 5"):
        engine.sample([PROMPTS[0]], 1, SamplingParams(max_tokens=8, min_tokens=5), seed=1)


def too_many(choice):
    for name in ("token_ids", "logprobs"):
        listed = choice["token_ids"] if name == "token_ids" else choice["logprobs"]["token_logprobs"]
        listed.extend([listed[0]] * 9)


def none_at_all(choice):
    choice["token_ids"], choice["logprobs"]["token_logprobs"] = [], []


def cut_short(choice):
    choice["finish_reason"], choice["stop_reason"] = "length", None
    del choice["token_ids"][2:], choice["logprobs"]["token_logprobs"][2:]


def past_the_end(choice):
    choice["token_ids"][0] = 1


def odd_stop(choice):
    choice["finish_reason"], choice["stop_reason"] = "stop", 77


SPOILT = {
    nothing: "no log-probs for",
    short: "log-probs for",
    not_a_number: "log-prob nan",
    impossible: "log-prob -9999",
    logits: "raw_logprobs",
    no_ids: "token_ids",
    text_ids: "token_ids",
    other_prompt: "prompt_token_ids",
    too_many: "max_tokens 8",
    none_at_all: "0 tokens",
    cut_short: "finish_reason",
    past_the_end: "beyond an end id",
    odd_stop: "finish_reason",
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.items(), ids=lambda x: getattr(x, "__name__", "says"))
def test_a_reply_that_lacks_what_was_asked_is_an_error_and_no_sample(lora, spoil, message):
    engine, server = lora(spoil=lambda reply: spoil(reply["choices"][-1]))
    with pytest.raises(ServerError, match=message):
        engine.sample([PROMPTS[0]], 2, SamplingParams(max_tokens=8, temperature=0.7), seed=1)
    assert server.count(COMPLETIONS) == 1


def other_model(reply):
    reply["model"] = "another"


def test_a_sample_of_other_weights_is_never_taken(lora):
    engine, server = lora(spoil=other_model)
    with pytest.raises(StaleWeightsError, match="another"):
        engine.sample([PROMPTS[0]], 2, PARAMS, seed=1)
    assert server.count(COMPLETIONS) == 1


def test_fewer_completions_than_asked_are_an_error(lora):
    engine, _ = lora(spoil=lambda reply: reply["choices"].pop())
    with pytest.raises(ServerError, match="1 completions"):
        engine.sample([PROMPTS[0]], 2, PARAMS, seed=1)


def test_tempered_log_probs_are_noticed(lora):
    """What --logprobs-mode processed_logprobs sends: log-probs after temperature."""
    engine, _ = lora(spoil=temper)
    with pytest.raises(StaleWeightsError, match="raw_logprobs"):
        engine.sample(PROMPTS, 2, PARAMS, seed=1)


def temper(reply):
    for choice in reply["choices"]:
        given = choice["logprobs"]["token_logprobs"]
        choice["logprobs"]["token_logprobs"] = [x / 0.7 for x in given]


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_shorter_of_both_contexts_counts(lora):
    engine, server = lora(max_model_len=12)
    assert engine.max_length == 12
    with pytest.raises(UsageError, match="12"):
        engine.sample([PROMPTS[1]], 1, PARAMS, seed=1)
    assert server.count(COMPLETIONS) == 0
    assert len(engine.logprobs([Row.from_completion(PROMPTS[1], range(20, 40))])[0]) == 24  # trained here


def test_a_model_that_is_not_served_is_named(lora):
    with pytest.raises(UsageError, match="did you mean 'base-model'"):
        lora(engine={"served_model": "bse-model"})


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host", "http://", "http://host:x", "http://a?b"]
)
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(UsageError, match="base_url"):
        vllm_server(url)


def test_a_url_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(UsageError) as refused:
        vllm_server("http://user:hunter2@host")
    assert "hunter2" not in str(refused.value)


def test_the_key_is_sent_to_this_machine_only_and_never_shown(serve, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sesame-1234567")
    server = serve(key="sesame-1234567")
    assert get_models(vllm_server(server.url + "/v1/"))
    assert server.headers[-1]["authorization"] == "Bearer sesame-1234567"
    monkeypatch.setenv("VLLM_API_KEY", "wrong-7654321")
    with pytest.raises(ClientError, match="VLLM_API_KEY") as refused:
        get_models(vllm_server(server.url))
    assert "wrong-7654321" not in str(refused.value)
    assert vllm_server("http://10.0.0.1:8000").key is None
    assert "wrong-7654321" not in repr(vllm_server(server.url))


@pytest.mark.parametrize("wrong", [{"tolerance": 0.0}, {"logprobs": "sever"}], ids=lambda w: next(iter(w)))
def test_a_setting_out_of_range_is_refused(make_vllm, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        make_vllm(HttpServer("http://127.0.0.1:9"), **wrong)


@pytest.mark.parametrize("kind", [ClientError, ServerError, StaleWeightsError])
def test_a_run_saves_itself_before_it_stops_for_an_error(kind):
    """The loop saves on these and raises the same kind again, with more to say."""
    assert issubclass(kind, UsageError | DataError | TrainingGuard)
    assert str(type(kind("why"))("why, and where it is saved")) == "why, and where it is saved"
