"""Measure what the sweep does not: the starting model, sycophancy, plasticity and games.

    python recipes/rl2f/measures.py runs/rl2f/sweep

The starting model gets the evaluation of every run (before.json). It and the arms below, seed by seed, get
both suites of `didact eval` (battery/seed-N.json), and some play games (games/). Existing files are not
measured again. The last two go into the README: means over seeds with 95 % t intervals over seeds; the
starting model is one, and has none.

Games of TextArena (`pip install 'didact-rl[games]'`) begin with more text than the small model was trained
on; all games are played with its limit of positions raised.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from readme_tables import headed, row, write  # noqa: E402
from table import Share, before_file, named, shown  # noqa: E402

ARMS = ("rl2f-plain", "rl2f", "rl2f-mixed")
TURNS, PROBLEMS = 10, 100
GAMES = ("guess-number", "textarena:GuessTheNumber-v0", "textarena:Mastermind-v0")
"""Environments whose feedback, such as "higher" or "lower", occurs nowhere in training."""
ROOM = 8192
"""Positions for games that do not fit into the model's 512; it was trained on none beyond."""
MOVES = {
    "repeated": "repeated word for word, %",
    "edit_distance": "edit distance, %",
    "fixed": "wrong, then right, %",
    "gain": "Δ log p(correct) of a critique, nats",
}


def measure_start(run: Path, out: Path, protocols: Sequence[Any]) -> None:
    """Evaluate a run's starting model by turn, as the run was at its end; skipped if `out` exists."""
    if out.exists():
        return
    from didact.cli.models import each_model
    from didact.config import DialogueEvalConfig, read_yaml
    from didact.training.evaluation_step import by_turn

    config = read_yaml(run / "config.yaml")
    [start, _] = each_model([config["model"]["path"], str(run)])
    dialogue = DialogueEvalConfig(**config["eval"]["dialogue"])
    found = by_turn(start.parts, 0, dialogue, protocols)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"by_turn": found}) + "\n")


def ask(sweep: Path, runs: Sequence[Path]) -> list[dict[str, Any]]:
    """One record of `didact eval --suite …` per seed, over the starting model and `ARMS`."""
    from didact.config import read_yaml

    found = []
    for first in runs:
        out = sweep / "battery" / f"{first.name}.json"
        arms = [path for arm in ARMS if (path := first.parent.parent / arm / first.name).is_dir()]
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            start = read_yaml(first / "config.yaml")["model"]["path"]
            # The starting model is the same for all seeds.
            models = [start] * (first == runs[0]) + [str(path) for path in arms]
            command = ["eval", *models, "--suite", "sycophancy", "--suite", "plasticity"]
            command += ["--turns", str(TURNS), "--n", str(PROBLEMS), "--json", str(out)]
            subprocess.run([sys.executable, "-m", "didact.cli.main", *command], check=True)
        found.append(json.loads(out.read_text()))
    return found


def play(sweep: Path, runs: Sequence[Path]) -> dict[str, dict[str, list[float]]]:
    """Game → the share solved, by the starting model and, seed by seed, by the first arm."""
    from didact.config import read_yaml

    models = {"before": Path(read_yaml(runs[0] / "config.yaml")["model"]["path"])}
    models |= {f"{ARMS[0]}-{run.name}": run / "model" for run in runs}
    solved: dict[str, dict[str, list[float]]] = {game: {} for game in GAMES}
    for game in GAMES:
        out = sweep / "games" / game.rpartition(":")[2]
        out.mkdir(parents=True, exist_ok=True)
        for name, model in models.items():
            file = out / f"{name}.json"
            if not file.exists():
                command = ["eval", str(with_room(model, sweep / "games" / "models" / name))]
                command += ["--env", game, "--n", str(PROBLEMS), "--temperature", "1"]
                command += ["--turns", str(TURNS), "--max-tokens", "8", "--json", str(file)]
                subprocess.run([sys.executable, "-m", "didact.cli.main", *command], check=True)
            solved[game].setdefault(name.partition("-seed-")[0], []).append(
                json.loads(file.read_text())["solved"]
            )
    return solved


def with_room(model: Path, copy: Path) -> Path:
    """A copy of the model with a higher limit of positions."""
    if not copy.exists():
        shutil.copytree(model, copy)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": ROOM}, indent=1))
    return copy


def summary(found: Sequence[dict[str, Any]], games: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Measure → arm → one value per seed."""
    records: dict[str, list[dict[str, Any]]] = {}
    for record in found:
        for model in record["models"]:
            path = Path(model["of"])
            records.setdefault(path.parent.name if path.name.startswith("seed-") else "before", []).append(
                model
            )
    said: dict[str, dict[str, list[float]]] = {}
    moved: dict[str, dict[str, list[float]]] = {}
    for arm, models in records.items():
        for rates in (model["sycophancy"]["rates"] for model in models):
            for rate in rates:
                what = f"{rate['condition'].removesuffix(', wrong')}: {rate['measures']}"
                said.setdefault(what, {}).setdefault(arm, []).append(rate["rate"])
        for key in MOVES:
            values = [m["plasticity"][key]["mean"] for m in models if key in m["plasticity"]]
            moved.setdefault(key, {})[arm] = values
    return {
        "arms": list(records), "said": said, "moved": moved, "games": games, "turns": TURNS,
        "problems": PROBLEMS,
    }  # fmt: skip


def battery(results: Mapping[str, Any]) -> Iterable[str]:
    """Sycophancy, then plasticity: one column per model."""
    arms = results["arms"]
    names = [named(arm) for arm in arms]
    yield from headed(["what is said of an answer, and the share that changes by it, %", *names])
    for what, of in results["said"].items():
        yield row([what, *(shown(Share.over(of[arm])) if of.get(arm) else "–" for arm in arms)])
    yield ""
    yield from headed([f"from an answer to the next, {results['turns']} turns with the teacher", *names])
    for key, of in results["moved"].items():
        yield row([MOVES[key], *(_mean(of.get(arm, []), 1.0 if key == "gain" else 100.0) for arm in arms)])
    yield ""
    yield from headed([f"solved of {results['problems']} games, %", *names])
    for game, of in results["games"].items():
        yield row([f"`{game}`", *(shown(Share.over(of[arm])) if of.get(arm) else "–" for arm in arms)])


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
    measure_start(runs[0], before_file(sweep), ("didactic", "self-critique"))
    (HERE / "results").mkdir(exist_ok=True)
    found = summary(ask(sweep, runs), play(sweep, runs))
    text = json.dumps(found, indent=1) + "\n"
    (HERE / "results" / "battery.json").write_text(text)
    write(HERE / "README.md", {"battery": ("", battery)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
