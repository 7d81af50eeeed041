"""What each part of the demo's result is owed to: the numbers of this folder's README.

    python recipes/ablations/run.py --seed 5

Trains every arm of ARMS that `results.json` does not hold yet, two at a time with one thread each, and
writes its evaluations there and as tables into the README.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
START, STOP = "<!-- run.py writes from here -->", "<!-- to here -->"
EASY = ["--set", "task.settings={min_word_len: 4, max_word_len: 5}", "--set", "max_sampled_tokens=40000"]
ARMS: dict[str, list[str]] = {
    "rltf-sd, λ_SD 0.1": ["rltf-sd", "--set", "settings.lambda_sd=0.1"],
    "rltf-sd, λ_SD 0.3": ["rltf-sd", "--set", "settings.lambda_sd=0.3"],
    "rltf-sd, λ_SD 1.0": ["rltf-sd", "--set", "settings.lambda_sd=1.0"],
    "rltf-sd, λ_SD 0.3, hints only": [
        "rltf-sd", "--set", "settings.lambda_sd=0.3", "--set", "feedback.level=hint",
    ],
    "grpo-2turn": ["grpo-2turn"],
    "rltf (SD 0.3 and FM 0.2)": [
        "rltf", "--set", "settings.lambda_sd=0.3", "--set", "settings.lambda_fm=0.2",
    ],
    "easy words: grpo": ["grpo", *EASY],
    "easy words: rltf-sd, λ_SD 0.3": ["rltf-sd", "--set", "settings.lambda_sd=0.3", *EASY],
}  # fmt: skip


def main() -> None:
    """Run what is missing, then write the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seed", type=int, default=5)
    arguments.add_argument("--runs", type=Path, default=Path("runs"))
    args = arguments.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    missing = [name for name in ARMS if name not in results]
    with ThreadPoolExecutor(2) as pool:
        for name, found in zip(
            missing, pool.map(lambda n: run(n, args.seed, args.runs), missing), strict=True
        ):
            results[name] = found
            ordered = {arm: results[arm] for arm in ARMS if arm in results}
            RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    text = (HERE / "README.md").read_text(encoding="utf-8")
    head, tail = text.split(START)[0], text.split(STOP)[1]
    (HERE / "README.md").write_text(f"{head}{START}\n\n{table(results)}\n\n{STOP}{tail}", encoding="utf-8")


def run(name: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train one arm and read its evaluations."""
    out = runs / f"ablation-{list(ARMS).index(name)}-{seed}"
    command = [sys.executable, "-m", "didact.cli.main", "train", *ARMS[name]]
    command += ["--config", str(HERE / "config.yaml"), "--seed", str(seed), "--out", str(out)]
    print(name, "…", flush=True)
    ended = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if not (out / "result.json").exists():
        raise SystemExit(f"{name}: {ended.stderr}")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evaluations = [{"step": line["step"], **line["eval"]} for line in lines if "eval" in line]
    return {"seed": seed, "sampled_tokens": lines[-1]["sampled_tokens"], "evaluations": evaluations}


def table(results: dict[str, Any]) -> str:
    """An arm a row: first answers at the end, and both accuracies on the way."""
    lines = [
        "| arm | first answers right at the end | first → after feedback, at steps 0, 25, 50, 75 |",
        "|---|---|---|",
    ]
    for name, found in results.items():
        last = found["evaluations"][-1]
        low, high = last["ci95"]
        way = [
            f"{100 * e['accuracy']:.0f} → {100 * e['accuracy_after_feedback']:.0f}"
            for e in found["evaluations"][:-1]
            if e["step"] <= 75
        ]
        cell = f"{100 * last['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"| {name} | {cell} | {', '.join(way)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
