"""What the tiny model can and cannot do, measured: the gate that a build has to pass.

    python recipes/tiny_base/gate.py [MODEL_DIR]      measure a saved model, write gate.json and the README's table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from examples import CIPHERS, CRITIC, DEMO, SUMS

from didact.rollouts.render import Renderer, revision_messages
from didact.tasks.reasoning_gym import ReasoningGymTask
from didact.types import Message, Problem

HERE = Path(__file__).parent
PROBLEMS = 300
LONGEST_ANSWER = 24
UNSEEN = (
    ("gcd", {}),
    ("products", {"max_digits": 2}),
    ("count_bits", {}),
    ("simple_equations", {}),
)
"""Generators that are nowhere in the training data: their questions are read as bytes."""
EASY = ("spell_backward", {"min_word_len": 3, "max_word_len": 4})
FIRST_AT_MOST, AFTER_AT_LEAST = 0.01, 0.5
START, STOP = "<!-- gate.py writes from here -->", "<!-- to here -->"


class Rate(NamedTuple):
    """A share of n trials with its 95% Wilson interval."""

    right: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        n, right = len(outcomes), sum(outcomes)
        if n == 0:
            return cls(0, 0, 0.0, 1.0)
        z, p = 1.959964, right / n
        centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return cls(right, n, max(0.0, (centre - half) / (1 + z * z / n)), (centre + half) / (1 + z * z / n))

    @property
    def share(self) -> float:
        return self.right / self.n if self.n else 0.0

    def __str__(self) -> str:
        return f"{self.share:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.n}"


def measure(model: Any, renderer: Renderer, name: str, config: dict[str, Any], n: int = PROBLEMS) -> dict[str, Rate]:
    """First answers sampled and greedy, and sampled answers after a critique of a wrong sampled answer."""
    task = ReasoningGymTask(name, config)
    problems = task.eval_problems(n)

    def verify(asked: Sequence[Problem], answers: Sequence[str]) -> list[bool]:
        return [task.verify(p, a).correct for p, a in zip(asked, answers, strict=True)]

    asked = [p.messages for p in problems]
    sampled, greedy = (generate(model, renderer, asked, sample=s) for s in (True, False))
    first = verify(problems, sampled)
    wrong = [(p, a) for p, a, right in zip(problems, sampled, first, strict=True) if not right]
    again = [revision_messages(p, a, CRITIC.text(a, p.reference or "")) for p, a in wrong]
    after = verify([p for p, _ in wrong], generate(model, renderer, again, sample=True))
    return {
        "first_sampled": Rate.of(first),
        "first_greedy": Rate.of(verify(problems, greedy)),
        "after_feedback": Rate.of(after),
    }


@torch.no_grad()
def generate(
    model: Any, renderer: Renderer, prompts: Sequence[Sequence[Message]], *, sample: bool, batch: int = 100
) -> list[str]:
    """One answer a prompt, at temperature 1 or greedily."""
    torch.manual_seed(0)
    answers = []
    for first in range(0, len(prompts), batch):
        ids = [renderer.prompt(p) for p in prompts[first : first + batch]]
        width = max(map(len, ids))
        ids_BT = torch.tensor([[renderer.tokenizer.pad_token_id] * (width - len(i)) + list(i) for i in ids])
        mask_BT = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids])
        sampling = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"temperature": None}
        out_BT = model.generate(
            ids_BT, attention_mask=mask_BT, do_sample=sample, max_new_tokens=LONGEST_ANSWER, **sampling
        )
        answers += [renderer.text(row) for row in out_BT[:, width:].tolist()]
    return answers


def gate(model: Any, renderer: Renderer) -> tuple[dict[str, Any], list[str]]:
    """Measure every task; returns the report and the reasons, if any, why the gate stays shut."""
    families = (("demo", *DEMO), ("easy", *EASY), ("mix", *SUMS), ("mix", *CIPHERS))
    rows, faults = [], []
    for role, name, config in (*families, *(("unseen", *u) for u in UNSEEN)):
        rates = measure(model, renderer, name, config)
        rows.append({"role": role, "task": name, "config": config, **{k: r._asdict() for k, r in rates.items()}})
        print(f"{role:7}{name:18}" + "  ".join(f"{k} {r}" for k, r in rates.items()), flush=True)
        if role == "demo":
            for key in ("first_sampled", "first_greedy"):
                if rates[key].share > FIRST_AT_MOST:
                    faults.append(f"{name}: {key} is {rates[key]}, above {FIRST_AT_MOST:.0%}")
        if role in ("demo", "mix") and rates["after_feedback"].share <= AFTER_AT_LEAST:
            faults.append(f"{name}: after_feedback is {rates['after_feedback']}, not above {AFTER_AT_LEAST:.0%}")
    return {"problems": PROBLEMS, "rows": rows}, faults


def write_report(report: dict[str, Any], folder: Path = HERE) -> None:
    """gate.json, and the README's table from it."""
    (folder / "gate.json").write_text(json.dumps(report, indent=1) + "\n")
    readme = folder / "README.md"
    if readme.exists() and START in (text := readme.read_text()):
        head, tail = text.split(START)[0], text.split(STOP)[1]
        readme.write_text(f"{head}{START}\n\n{table(report)}\n{STOP}{tail}")


def table(report: dict[str, Any]) -> str:
    """The rates as a Markdown table."""
    keys = ("first_sampled", "first_greedy", "after_feedback")
    lines = ["| task | role | first answer, sampled | first answer, greedy | after feedback, sampled |", "|---" * 5 + "|"]
    for row in report["rows"]:
        settings = ", ".join(f"{k}={v}" for k, v in row["config"].items())
        cells = [str(Rate(**row[key])) for key in keys]
        lines.append(f"| `{row['task']}` {settings} | {row['role']} | " + " | ".join(cells) + " |")
    if "build" in report:
        lines += ["", "Built with: " + ", ".join(f"{k} {v}" for k, v in report["build"].items()) + "."]
    return "\n".join(lines) + "\n"


def main(model_dir: str) -> int:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    report, faults = gate(model, Renderer(AutoTokenizer.from_pretrained(model_dir)))
    old = json.loads((HERE / "gate.json").read_text()) if (HERE / "gate.json").exists() else {}
    write_report({**report, **({"build": old["build"]} if "build" in old else {})})
    for fault in faults:
        print("gate:", fault, file=sys.stderr)
    return 4 if faults else 0


if __name__ == "__main__":
    asset = HERE.parents[1] / "src" / "didact" / "assets" / "tiny"
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else str(asset)))
