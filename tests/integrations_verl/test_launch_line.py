"""The launch line of docs/scaling.md is one that verl's configuration takes. Nothing is launched."""

import importlib.util
import re
from pathlib import Path

import pytest

if importlib.util.find_spec("verl") is None:
    pytest.skip("verl is not installed: run `make test-verl`", allow_module_level=True)

from hydra import compose, initialize_config_dir

from didact.integrations import verl as plugin

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_verl_takes_the_launch_line():
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    [line] = re.findall(r"^python -m verl\.trainer\.main_ppo (.*)$", text, re.MULTILINE)
    home = Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config"
    with initialize_config_dir(config_dir=str(home), version_base=None):
        config = compose(config_name="ppo_trainer", overrides=line.split())
    assert config.algorithm.adv_estimator in plugin.ESTIMATORS
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode in plugin.LOSSES
    assert config.actor_rollout_ref.rollout.n == 8
