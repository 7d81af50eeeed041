"""Predicted seconds of a training step of a large model, part by part; nothing here is a measurement of one.

    python benchmarks/scaling/cost_model.py
    python benchmarks/scaling/cost_model.py --method rltf --completion 2048 --json

Three kinds of numbers go in, and are kept apart:

* measured: the cost of scoring and of a LoRA relative to training, from measure.py on a CPU (measured.json).
Both
  sides of such a ratio are bound by arithmetic, on a CPU as on a GPU, so the ratio transfers;
* looked up: a GPU's peak rates, from its maker's datasheet (HARDWARE), and a model's shape (MODELS);
* assumed: utilisation of a peak, and the overhead of a decoding step (ASSUMED), as ranges.

Sampling is *not* taken from the CPU: there it is bound by arithmetic, on a GPU by memory and by launching
kernels. Each assumption is drawn from its range (log-uniform, one draw for all plans) some thousand times;
printed are the median and the middle 80 % of the step's seconds.

Left out: the critic (a program takes nothing, a judge what its server takes), loading, evaluation, answers
that end early, and stragglers between nodes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

MEASURED = Path(__file__).with_name("measured.json")
DRAWS = 4000


@dataclass(frozen=True)
class Model:
    """A decoder's shape; weights are counted without biases and norms."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = True

    @property
    def body(self) -> float:
        """Weights of the layers."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return float(self.layers * (attention + 3 * self.hidden * self.intermediate))

    @property
    def output(self) -> float:
        """Weights of the output layer."""
        return float(self.hidden * self.vocabulary)

    @property
    def parameters(self) -> float:
        return self.body + self.output * (1 if self.tied else 2)

    @property
    def kv_bytes(self) -> float:
        """Bytes of the cache a token, bfloat16."""
        return 4.0 * self.layers * self.kv_heads * self.head_dim

    def adapter(self, rank: int) -> float:
        """Weights of a LoRA on every linear layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.intermediate)
        return float(rank * self.layers * sides)

    def forward_flops(self, tokens: float, scored: float, length: float) -> float:
        """Of tokens in rows of a mean length, `scored` of which reach the output layer."""
        attention = 2 * self.layers * self.heads * self.head_dim * length * tokens
        return 2 * self.body * tokens + 2 * self.output * scored + attention


MODELS = {
    # huggingface.co/Qwen/Qwen3-4B and Qwen3-0.6B, config.json
    "qwen3-4b": Model(36, 2560, 32, 8, 128, 9728, 151936),
    "qwen3-0.6b": Model(28, 1024, 16, 8, 128, 3072, 151936),
}


@dataclass(frozen=True)
class Hardware:
    """A GPU's peaks, a second."""

    flops: float
    """Dense bfloat16."""
    memory: float
    """Bytes of its memory."""
    link: float
    """Bytes to its neighbours on the node, one way."""
    capacity: float
    """Bytes that it holds."""


HARDWARE = {
    # NVIDIA H100 (SXM) and A100 (SXM, 80 GB) datasheets; half of the bidirectional NVLink rate
    "h100": Hardware(989e12, 3.35e12, 450e9, 80e9),
    "a100": Hardware(312e12, 2.04e12, 300e9, 80e9),
}

ASSUMED: dict[str, tuple[float, float]] = {
    "train_utilisation": (0.15, 0.45),
    "prefill_utilisation": (0.25, 0.60),
    "memory_efficiency": (0.50, 0.85),
    "eager_seconds_per_layer": (0.5e-3, 1.5e-3),
    "server_seconds_per_step": (1e-3, 5e-3),
    "adam_passes": (1.0, 2.5),
    "link_efficiency": (0.3, 0.8),
    "sync_seconds": (0.5, 4.0),
    "sharding_overhead": (1.0, 1.35),
    "score_ratio_error": (0.8, 1.25),
    "lora_ratio_error": (1.0, 1.45),
}
"""What is not known here, as ranges:

train_utilisation     of peak, for transformers' own layers with padding; tuned FSDP code reports 0.4 to 0.55
prefill_utilisation   of peak, when prompts are read
memory_efficiency     of peak, when weights and caches are read
eager_seconds_per_layer  of one decoding step of LocalEngine, which launches kernels one by one
server_seconds_per_step  of one decoding step of vLLM beyond its bytes: scheduling, sampling, text
adam_passes           how often Adam's tensors are read and written, against once
link_efficiency       of peak, for collectives
sync_seconds          what a weight transfer takes beyond its bytes: pausing, clearing caches, HTTP, files
sharding_overhead     of 8 GPUs in training, beyond an eighth of the work
score_ratio_error     of the measured ratio
lora_ratio_error      likewise; an adapter costs a tiny model more than a large one, where it may reach 1.5
"""
Draw: TypeAlias = Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]


@dataclass(frozen=True)
class Work:
    """Tokens of one step, over all dialogues."""

    sampled: float
    """Tokens generated."""
    answers: float
    """Completions that are sampled side by side; a second turn waits for the first."""
    turns: int
    completion: float
    prefilled: float
    """Prompt tokens read for sampling, each distinct prompt once."""
    context: float
    """Mean tokens in the cache while an answer grows."""
    trained: float
    """Tokens of rows that are trained."""
    targets: float
    """Those of them that have a weight."""
    scored: float
    """Tokens of rows under the starting weights, for a KL term."""
    row: float
    """Mean length of a trained row."""


def work(method: str, options: argparse.Namespace) -> Work:
    """What `grpo` (one turn) and `rltf` (two turns, SD and FM) sample and train."""
    d, p, c, f = options.problems * options.samples, options.prompt, options.completion, options.critique
    if method == "grpo":
        trained, targets = d * (p + c), d * c
        scored = trained if options.kl else 0.0
        return Work(d * c, d, 1, c, options.problems * p, p + c / 2, trained, targets, scored, p + c)
    second = p + c + f  # the question, the first answer, its critique
    rows = [(p + c, c), (second + c, c), (p + c, c), (p + c + f, f)]
    trained, targets = d * sum(n for n, _ in rows), d * sum(t for _, t in rows)
    prefilled = options.problems * p + d * second
    context = (p + second) / 2 + c / 2
    scored = d * (p + c + second + c) if options.kl else 0.0
    return Work(2 * d * c, d, 2, c, prefilled, context, trained, targets, scored, trained / (4 * d))


@dataclass(frozen=True)
class Plan:
    """Which GPUs train and which sample."""

    name: str
    trainers: int
    """GPUs that train."""
    samplers: int
    """GPUs on which a vLLM server samples, which may be the trainers' own in turn; 0: LocalEngine does."""
    lora: bool


PLANS = (
    Plan("1 GPU, LocalEngine, LoRA", 1, 0, True),
    Plan("1 GPU trains a LoRA, 1 GPU vLLM", 1, 1, True),
    Plan("1 GPU trains a LoRA, 7 GPUs vLLM", 1, 7, True),
    Plan("8 GPUs, LocalEngine, all weights", 8, 0, False),
    Plan("8 GPUs, vLLM and FSDP in turn (a Tinker server), all weights", 8, 8, False),
)


def step_seconds(
    plan: Plan, model: Model, gpu: Hardware, load: Work, ratios: Mapping[str, float], draw: Draw
) -> dict[str, Any]:
    """Seconds of each part of a step, one a draw."""
    useful = gpu.flops * draw["train_utilisation"] * plan.trainers
    useful = useful / (draw["sharding_overhead"] if plan.trainers > 1 else 1.0)
    full = 3 * model.forward_flops(load.trained, load.targets, load.row) / useful
    faster = ratios["lora_over_train"] * draw["lora_ratio_error"]
    scored = 3 * model.forward_flops(load.scored, load.scored / 2, load.row) / useful
    trainable = model.adapter(16) if plan.lora else model.parameters
    # float32: weight, gradient and two moments are read, and all but the gradient written.
    adam = 28 * trainable * draw["adam_passes"] / plan.trainers / (gpu.memory * draw["memory_efficiency"])
    parts = {
        "sampling": _sampling(plan, model, gpu, load, draw),
        "log-probs": scored / (ratios["score_over_train"] * draw["score_ratio_error"]),
        "forward-backward": full / faster if plan.lora else full,
        "optimiser": adam,
        "weight sync": _sync(plan, model, gpu, draw) if plan.samplers else 0.0 * adam,
    }
    if plan.trainers > 1:
        parts["forward-backward"] = parts["forward-backward"] + _gradients(model, gpu, draw)
    return parts


def _sampling(plan: Plan, model: Model, gpu: Hardware, load: Work, draw: Draw) -> Any:
    gpus = plan.samplers or plan.trainers
    answers = load.answers / gpus
    waves = 1.0
    if not plan.samplers:
        # LocalEngine holds 8 × tokens_per_batch padded tokens at a time.
        longest = load.context + load.completion / 2
        waves = float(np.ceil(answers * longest / (8 * 8192)))
    batch = answers / waves
    read = 2 * model.parameters + batch * load.context * model.kv_bytes
    memory = read / (gpu.memory * draw["memory_efficiency"])
    arithmetic = 2 * (model.body + model.output) * batch / (gpu.flops * draw["prefill_utilisation"])
    if plan.samplers:
        step = np.maximum(memory, arithmetic) + draw["server_seconds_per_step"]
    else:
        launches = model.layers * draw["eager_seconds_per_layer"]
        step = np.maximum(np.maximum(memory, arithmetic), launches)
    prefill = model.forward_flops(load.prefilled, load.answers, load.context)
    prefill = prefill / (gpu.flops * draw["prefill_utilisation"] * gpus)
    return load.turns * waves * load.completion * step + prefill


def sync_bytes(plan: Plan, model: Model) -> float:
    """Bytes sent to the server per step: bfloat16 weights, or a float32 adapter's file."""
    return 4 * model.adapter(16) if plan.lora else 2 * model.parameters


def _sync(plan: Plan, model: Model, gpu: Hardware, draw: Draw) -> Any:
    return sync_bytes(plan, model) / (gpu.link * draw["link_efficiency"]) + draw["sync_seconds"]


def _gradients(model: Model, gpu: Hardware, draw: Draw) -> Any:
    """A ring all-reduce of float32 gradients moves each byte twice."""
    return 2 * 4 * model.parameters / (gpu.link * draw["link_efficiency"])


def memory_bytes(plan: Plan, model: Model) -> float:
    """What a training GPU holds beside activations: bfloat16 weights and an adapter, or all in float32."""
    if plan.lora:
        return 2 * model.parameters + 16 * model.adapter(16)
    sharded = plan.trainers  # FSDP
    return 16 * model.parameters / sharded + 2 * model.parameters / sharded


def draws(seed: int = 0, count: int = DRAWS) -> Draw:
    """Each assumption drawn from its range, log-uniform."""
    rng = np.random.default_rng(seed)
    return {
        name: np.exp(rng.uniform(np.log(low), np.log(high), count)) for name, (low, high) in ASSUMED.items()
    }


def predict(options: argparse.Namespace, ratios: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row a plan."""
    model, gpu, load, draw = (
        MODELS[options.model],
        HARDWARE[options.gpu],
        work(options.method, options),
        draws(),
    )
    rows = []
    for plan in PLANS:
        parts = step_seconds(plan, model, gpu, load, ratios, draw)
        total = sum(parts.values(), start=np.zeros(DRAWS))
        low, median, high = (float(x) for x in np.quantile(total, [0.1, 0.5, 0.9]))
        shares = {name: float(np.median(part / total)) for name, part in parts.items()}
        rows.append(
            {
                "plan": plan.name,
                "seconds": [_two_digits(x) for x in (low, median, high)],
                "shares": {name: round(share, 2) for name, share in shares.items()},
                "sync_megabytes": round(sync_bytes(plan, model) / 1e6) if plan.samplers else 0,
                "fits": memory_bytes(plan, model) < 0.7 * gpu.capacity,
            }
        )
    return rows


def _two_digits(x: float) -> float:
    return float(f"{x:.2g}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    names = list(rows[0]["shares"])
    lines = [
        f"| plan | seconds a step | {' | '.join(names)} | sent a step |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for row in rows:
        low, median, high = (f"{x:g}" for x in row["seconds"])
        shares = " | ".join(f"{share:.0%}" for share in row["shares"].values())
        sent = f"{row['sync_megabytes']} MB" if row["sync_megabytes"] else "–"
        name = row["plan"] + ("" if row["fits"] else " (does not fit)")
        lines.append(f"| {name} | {median} ({low} to {high}) | {shares} | {sent} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], object] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="qwen3-4b")
    parser.add_argument("--gpu", choices=HARDWARE, default="h100")
    parser.add_argument("--method", choices=("grpo", "rltf"), default="grpo")
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8, help="samples a problem")
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--completion", type=int, default=1024, help="tokens")
    parser.add_argument("--critique", type=int, default=128, help="tokens")
    parser.add_argument("--kl", action="store_true", help="score under the starting weights too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    ratios = json.loads(MEASURED.read_text())["ratios"]
    rows, load = predict(options, ratios), work(options.method, options)
    if options.json:
        say(json.dumps({"work": vars(load), "ratios": ratios, "plans": rows}, indent=2))
        return
    model = MODELS[options.model]
    say(f"{options.model} ({model.parameters / 1e9:.2f} B weights), {options.gpu}, {options.method}:")
    say(f"{load.sampled:,.0f} tokens sampled and {load.trained:,.0f} trained a step\n")
    say(table(rows))


if __name__ == "__main__":
    main()
