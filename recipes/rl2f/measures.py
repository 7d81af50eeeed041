"""What the sweep's models were before, and whether they give in and move: what table.py does not know.

    python recipes/rl2f/measures.py runs/rl2f/sweep

It asks the starting model what every run was asked (before.json), and the starting model and the arms below,
seed by seed, what `didact battery` asks (battery/seed-N.json). What is there is not measured again. It
prints the second as tables: means over seeds with 95 % t intervals over seeds; the starting model is one, and
has none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from table import Share, before_file, shown

ARMS = ("grpo", "rl2f", "rl2f-plain", "rl2f-mixed")
TURNS = 10
MOVES = {
    "repeated": "repeated word for word, %",
    "edit_distance": "edit distance, %",
    "fixed": "wrong, then right, %",
    "gain": "Δ log p(correct) of a critique, nats",
}


def measure_start(sweep: Path, runs: Sequence[Path]) -> None:
    """Ask the model that all runs started from what they are asked at their end."""
    out = before_file(sweep)
    if out.exists():
        return
    from didact.cli.models import each_model
    from didact.training.config import read_yaml

    config = read_yaml(runs[0] / "config.yaml")
    [start, _] = each_model([config["model"]["path"], str(runs[0])], [], None)
    turns, most = config["eval"]["didactic_turns"], config["eval"]["didactic_problems"]
    found = start.parts.by_turn(0, turns, ("didactic", "self-critique"), most)
    out.write_text(json.dumps({"by_turn": found}) + "\n")


def ask(sweep: Path, runs: Sequence[Path]) -> list[dict[str, Any]]:
    """A record of `didact battery` for each seed, over the starting model and these arms."""
    from didact.training.config import read_yaml

    found = []
    for first in runs:
        out = sweep / "battery" / f"{first.name}.json"
        arms = [path for arm in ARMS if (path := first.parent.parent / arm / first.name).is_dir()]
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            start = read_yaml(first / "config.yaml")["model"]["path"]
            command = ["battery", start, *map(str, arms), "--turns", str(TURNS), "--json", str(out)]
            command += ["--set", "eval.problems=100"]
            subprocess.run([sys.executable, "-m", "didact.cli.main", *command], check=True)
        found.append(json.loads(out.read_text()))
    return found


def tables(found: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Sycophancy, then plasticity: a column a model."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for record in found:
        for model in record["models"]:
            path = Path(model["of"])
            name = path.parent.name if path.name.startswith("seed-") else "before"
            by_name.setdefault(name, []).append(model)
    # The starting model is asked again with every seed of the others, and is one model all the same.
    by_name["before"] = by_name["before"][:1]
    yield "| what is said, and what counts | " + " | ".join(f"`{name}`" for name in by_name) + " |"
    yield "|---" * (1 + len(by_name)) + "|"
    rates = [[{r["condition"]: r for r in m["sycophancy"]["rates"]} for m in of] for of in by_name.values()]
    for condition, record in rates[0][0].items():
        cells = [shown(Share.over([r[condition]["rate"] for r in of])) for of in rates]
        yield f"| {condition.removesuffix(', wrong')}: {record['measures']} | " + " | ".join(cells) + " |"
    yield ""
    yield f"| from an answer to the next, {TURNS} turns | " + " | ".join(f"`{n}`" for n in by_name) + " |"
    yield "|---" * (1 + len(by_name)) + "|"
    for key, heading in MOVES.items():
        scale = 1.0 if key == "gain" else 100.0
        values = [
            [m["plasticity"][key]["mean"] for m in of if key in m["plasticity"]] for of in by_name.values()
        ]
        yield f"| {heading} | " + " | ".join(_mean(of, scale) for of in values) + " |"


def _mean(values: Sequence[float], scale: float) -> str:
    if not values:
        return "–"
    mean, low, high = (scale * v for v in Share.over(values, low=-float("inf"), high=float("inf")))
    return f"{mean:.2f}" + (f" [{low:.2f}, {high:.2f}]" if len(values) > 1 else "")


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    sweep = Path(sys.argv[1])
    runs = sorted(path.parent for path in sweep.glob(f"*/{ARMS[0]}/seed-*/result.json"))
    if not runs:
        print(f"{sweep} holds no finished run of {ARMS[0]}: see recipes/rl2f/README.md", file=sys.stderr)
        return 2
    measure_start(sweep, runs)
    print("\n".join(tables(ask(sweep, runs))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
