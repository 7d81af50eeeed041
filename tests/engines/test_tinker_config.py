"""`engine: tinker` in a run's settings, and a run on a server that fails on the way."""

import json

import pytest
import torch
import yaml

from didact.build.components import build
from didact.build.engines import tiny_model
from didact.config import RunConfig, load_config, parse_config
from didact.engines.local.loading import load_pretrained
from didact.engines.probe import ProbeResult
from didact.engines.tinker import TinkerError, connect
from didact.engines.tinker import engine as tinker_engine
from didact.engines.tinker import wire as tinker_wire
from didact.engines.tinker.connect import require_passed
from didact.engines.tinker.server_behavior import ServerBehavior
from didact.errors import CapabilityError, TrainingGuard, UsageError
from didact.run_dir import read_jsonl
from didact.training.api import resume, run_config
from tests.engines.tinker_fake import FakeService, FakeTrainer, Faults

URL = "http://127.0.0.1:9"


def test_the_bare_word_is_enough():
    config = parse_config({"method": "grpo", "engine": "tinker"})
    assert config.engine.name == "tinker"
    assert parse_config({"method": "grpo"}).engine.name == "local"


@pytest.mark.parametrize(
    "overrides",
    [
        ["engine=tinker", f"engine.settings.base_url={URL}"],
        [f"engine.settings.base_url={URL}", "engine=tinker"],
        ["engine.name=tinker", f"engine.settings.base_url={URL}"],
    ],
)
def test_the_word_and_its_settings_come_in_any_order(overrides):
    chosen = load_config("grpo", overrides=overrides).engine
    assert (chosen.name, chosen.settings) == ("tinker", {"base_url": URL})


def test_a_file_with_the_word_takes_settings_beside_it(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("engine: tinker\n")
    assert load_config("grpo", file, [f"engine.settings.base_url={URL}"]).engine.settings == {"base_url": URL}


def test_a_run_of_before_there_was_a_choice_is_local():
    stored = yaml.safe_load(parse_config({"method": "grpo"}).to_yaml())
    assert stored.pop("engine")["name"] == "local"
    assert parse_config(stored) == RunConfig(method="grpo")
    remote = parse_config({"method": "grpo", "engine": {"name": "tinker", "settings": {"base_url": URL}}})
    assert parse_config(yaml.safe_load(remote.to_yaml())) == remote


@pytest.mark.parametrize(
    ("engine", "named"),
    [
        ("tinkr", "'tinker'"),
        ({"settings": {"base_url": URL}}, "'local'.*'base_url'"),
        ({"name": "tinker", "settings": {"base_ur": URL}}, "'base_url'"),
        ({"name": "tinker", "base_url": URL}, r"engine\.base_url"),
    ],
)
def test_wrong_words_are_refused(engine, named):
    with pytest.raises(UsageError, match=named):
        build(parse_config({"method": "grpo", "engine": engine}))


def test_without_an_address_it_says_so(monkeypatch):
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    with pytest.raises(UsageError, match=r"engine\.settings\.base_url"):
        build(parse_config({"method": "grpo", "engine": "tinker"}))


def test_a_critic_is_refused_before_anything_is_asked_of_the_server():
    values = {"method": "text2grad", "engine": {"name": "tinker", "settings": {"base_url": URL}}}
    with pytest.raises(CapabilityError, match=r"settings\.credit=critic_free"):
        build(parse_config(values))


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"http://127\.0\.0\.1:9"):
        tinker_wire._reachable(URL)


def test_a_failed_check_is_reported_with_its_measurement():
    good, bad = ProbeResult("twice the weights", 2.0, 2.0, 0.1), ProbeResult("two calls", 1.0, 2.0, 0.1)
    require_passed("fake", [good])
    with pytest.raises(TrainingGuard, match=r"two calls: 1"):
        require_passed("fake", [good, bad])


@pytest.fixture
def make_fake(make_model, tokenizer, tmp_path):
    def make(**faults):
        (tmp_path / "kept").mkdir(exist_ok=True)
        return FakeService(make_model, tokenizer, tmp_path / "kept", Faults(**faults))

    return make


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_connecting_probes_and_leaves_one_adapter(make_fake, folder):
    """Through every fault that SkyRL's JAX backend has."""
    service = make_fake(reduction="rows", clips=False, shared_snapshots=True, soft_targets=False)
    engine = connect(service, folder, rank=4)
    assert service.alive == 1
    assert engine.behavior.reduction == "mean of row means"


@pytest.mark.parametrize(
    ("faults", "named"),
    [({"flips": True}, "sign"), ({"clip_is_epsilon": True}, "ppo by name against its function")],
)
def test_connecting_to_a_server_that_computes_something_else_is_refused(make_fake, folder, faults, named):
    service = make_fake(**faults)
    with pytest.raises(TrainingGuard, match=named):
        connect(service, folder, rank=4)
    assert service.alive == 0


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ({"settings": {"entropy_coef": 0.01}}, r"settings\.entropy_coef=0"),
        ({"sampling": {"repetition_penalty": 1.2}}, r"sampling\.repetition_penalty=1"),
        ({"sampling": {"min_tokens": 4}}, r"sampling\.min_tokens=0"),
    ],
)
def test_what_a_server_lacks_is_refused_before_the_run(
    make_fake, folder, monkeypatch, tmp_path, values, cure
):
    monkeypatch.setattr(tinker_wire, "TinkerService", lambda *args, **kwargs: make_fake())
    engine = {"name": "tinker", "settings": {"base_url": URL, "probe": False}}
    config = {"method": "grpo", "engine": engine, "model": {"path": folder}, **values}
    with pytest.raises(CapabilityError, match=cure):
        run_config(parse_config(config), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_lost_a_step_resumes_to_the_same_end(monkeypatch, tmp_path):
    """Killed by a lost answer in its third step, it ends where an undisturbed run ends."""
    _, tokenizer = load_pretrained(str(tiny_model()), dtype=torch.float32, attention=None)

    def make_model():
        return load_pretrained(str(tiny_model()), dtype=torch.float32, attention=None)[0]

    service = FakeService(make_model, tokenizer, tmp_path)
    monkeypatch.setattr(tinker_wire, "TinkerService", lambda *args, **kwargs: service)
    monkeypatch.setattr(tinker_engine, "measure", lambda *args, **kwargs: ServerBehavior())
    values = {
        "method": "rltf-fm",
        "settings": {"samples": 2},
        "engine": {"name": "tinker", "settings": {"base_url": URL, "rank": 4, "probe": False}},
        "task": {"name": "spell_backward", "settings": {"min_word_len": 6, "max_word_len": 7}},
        "problems_per_step": 4,
        "sampling": {"max_tokens": 12},
        "optim": {"lr": 1e-3},
        "steps": 4,
        "checkpoint_every": 1,
        "eval": {"problems": 0},
    }
    whole = run_config(parse_config(values), tmp_path / "whole")
    step, taken = FakeTrainer.optim_step, []

    def lose_the_third(trainer, params):
        taken.append(trainer)
        if len(taken) == 3:
            service.faults.loses = "optim_step"
        return step(trainer, params)

    monkeypatch.setattr(FakeTrainer, "optim_step", lose_the_third)
    with pytest.raises(TinkerError, match="--resume"):
        run_config(parse_config(values), tmp_path / "cut")
    assert len(taken) == 3
    ended = resume(tmp_path / "cut")
    assert list(read_jsonl(ended.metrics)) == list(read_jsonl(whole.metrics))
    results = [json.loads(r.result.read_text()) for r in (whole, ended)]
    assert results[0] == results[1]
    assert (ended.model / "tinker.json").exists()
