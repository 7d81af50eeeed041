"""wire.py against the SDK's own types, in the version that is installed and in those laid beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BESIDE = sorted(Path(sys.prefix).glob("sdk-*"))
"""Other versions, installed by `make test-engines` with `pip install --target`."""

CHECK = """
import sys
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import tinker
from didact.engines.base import AdamParams, SamplingParams
from didact.engines.tinker.wire import (
    Datum, TinkerError, TinkerSampler, TinkerService, TinkerTrainer, _adam
)

asked = {}

def client(**answers):
    def method(name):
        def call(*args, **kwargs):
            asked[name] = (args, kwargs)
            answer = answers[name]
            def result(timeout=None):
                if isinstance(answer, Exception):
                    raise answer
                return answer
            return SimpleNamespace(result=result)
        return call
    return SimpleNamespace(**{name: method(name) for name in answers})

tensor = lambda v: tinker.TensorData.from_numpy(np.asarray(v))
logprobs = np.array([-0.5, -1.5], np.float32)
output = tinker.types.ForwardBackwardOutput(
    loss_fn_output_type="x", loss_fn_outputs=[{"logprobs": tensor(logprobs)}], metrics={}
)
stepped = tinker.types.OptimStepResponse(metrics={"skyrl.ai/grad_norm": 2.0})
service = SimpleNamespace(timeout=1.0, pipelined=False)
fake = client(forward_backward=output, forward=output, optim_step=stepped)
trainer = TinkerTrainer(service, fake)
datum = Datum(
    np.array([5, 6]),
    {"target_tokens": np.array([6, 7]), "advantages": np.array([1, -2], np.float32), "logprobs": logprobs},
)
clip = {"clip_low_threshold": 0.8}
for pending in (trainer.forward([datum]), trainer.forward_backward([datum], "ppo", clip)):
    [found] = pending.wait()
    np.testing.assert_array_equal(found, logprobs)
(data, loss, settings), _ = asked["forward_backward"]
assert (loss, settings) == ("ppo", clip)
[sent] = data
assert sent.model_input.to_ints() == [5, 6]
assert sent.loss_fn_inputs["target_tokens"].data == [6, 7]
assert sent.loss_fn_inputs["target_tokens"].dtype == "int64"
assert sent.loss_fn_inputs["advantages"].data == [1.0, -2.0]

assert trainer.optim_step(AdamParams(lr=0.5, max_grad_norm=2.0)).wait() == {"skyrl.ai/grad_norm": 2.0}
[params], _ = asked["optim_step"]
assert (params.learning_rate, params.beta2, params.grad_clip_norm) == (0.5, 0.95, 2.0)
assert _adam(AdamParams(max_grad_norm=float("inf"))).grad_clip_norm == 0.0

more = {"sequence_id": "s"} if "sequence_id" in tinker.types.SampledSequence.__dataclass_fields__ else {}
def in_order(pipelined):
    # What was sent and what was read, in its order, in one step of two gradients.
    done = []
    def call(name):
        def method(*args):
            done.append("send " + name)
            def result(timeout=None):
                done.append("read " + name)
                return output if name == "gradient" else stepped
            return SimpleNamespace(result=result)
        return method
    both = SimpleNamespace(forward_backward=call("gradient"), optim_step=call("step"))
    trainer = TinkerTrainer(SimpleNamespace(timeout=1.0, pipelined=pipelined), both)
    for _ in range(2):
        trainer.forward_backward([datum], "ppo", clip)
    trainer.optim_step(AdamParams())
    return done

assert in_order(True) == ["send gradient", "send gradient", "send step"]
assert in_order(False) == ["send gradient", "send gradient", "read gradient", "read gradient", "send step"]

sequence = tinker.types.SampledSequence(
    stop_reason="stop", tokens_np=np.array([7, 1], np.int32), logprobs_np=logprobs, **more
)
sampler = TinkerSampler(
    client(sample=SimpleNamespace(sequences=[sequence]), compute_logprobs=[None, -1.0]), 1.0
)
[drawn] = sampler.sample((5, 6), 1, SamplingParams(max_tokens=4, stop=("x",)), seed=3, end_ids=(1,)).wait()
assert drawn == ((7, 1), (-0.5, -1.5), "eos"), drawn
_, given = asked["sample"]
params = given["sampling_params"]
assert (params.seed, params.stop, params.top_k, params.max_tokens) == (3, [1], -1, 4)
assert sampler.logprobs((5, 6)).wait() == [-1.0]
short = TinkerSampler(client(compute_logprobs=[-1.0, -2.0]), 1.0)
assert short.logprobs((5, 6, 7)).wait() == [-1.0, -2.0]

for error in (TimeoutError(), ValueError("a page " * 200)):
    late = TinkerTrainer(service, client(optim_step=error))
    try:
        late.optim_step(AdamParams()).wait()
    except TinkerError as said:
        assert "optim_step" in str(said) and len(str(said)) < 600
    else:
        raise AssertionError("an error was swallowed")
assert callable(TinkerService.create)
for name in ("create_lora_training_client", "create_training_client_from_state_with_optimizer",
             "create_sampling_client", "get_server_capabilities", "create_rest_client"):
    assert hasattr(tinker.ServiceClient, name), name
for name in ("forward", "forward_backward", "optim_step", "save_state", "save_weights_for_sampler",
             "create_sampling_client"):
    assert hasattr(tinker.TrainingClient, name), name
print("wire holds with tinker", tinker.__version__)
"""


@pytest.mark.parametrize("beside", [None, *BESIDE], ids=lambda p: "installed" if p is None else p.name)
def test_rows_steps_and_samples_cross_the_wire(beside):
    environment = dict(os.environ)
    if beside is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(beside), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    if beside is not None:
        assert beside.name.removeprefix("sdk-") in done.stdout
