"""Evaluate the runs of teachers.yaml with the program as teacher, and check what their teachers wrote.

    python recipes/rl2f/teachers.py runs/rl2f/teachers

Existing results are not measured again. All go to teachers.json in the sweep's directory, and from there
into the README.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import table  # noqa: E402
from dialogues import CRITIC, place_by_place  # noqa: E402
from measures import measure_start  # noqa: E402

TURNS = 10
SHARE = 0.2
"""Share of the steps at the beginning and at the end whose critiques are compared."""
PROGRAM = "feedback={source: program, settings: {level: direction}}"


def solved(by_turn: Mapping[str, Any]) -> dict[str, float]:
    """Generator → the share of problems solved with a teacher by the last turn."""
    return {name: t["protocols"]["didactic"]["by_turn"][TURNS - 1]["solved"] for name, t in by_turn.items()}


def with_program(model: Path, like: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Results of `didact eval` with the program as teacher, on the evaluation problems of the sweep."""
    if not out.exists():
        out.parent.mkdir(exist_ok=True)
        command = ["eval", str(model), "--protocol", "didactic", "--turns", str(TURNS), "--json", str(out)]
        settings = [PROGRAM, f"eval.problems={like['eval']['dialogue']['problems']}"]
        settings += [f"eval.{key}={like['eval'][key]}" for key in ("offset", "temperature")]
        command += [word for setting in settings for word in ("--set", setting)]
        subprocess.run([sys.executable, "-m", "didact.cli.main", *command], check=True)
    found: dict[str, Any] = json.loads(out.read_text())["families"]
    return found


def truth(run: Path) -> dict[str, float]:
    """The share of a run's critiques that are entirely true, at the beginning and at the end."""
    answers = {}
    for rollout in map(json.loads, (run / "rollouts.jsonl").read_text().splitlines()):
        for turn, answer in enumerate(rollout["turns"]):
            answers[rollout["id"], turn] = answer["text"], rollout["problem"]["reference"]
    by_step: dict[int, list[bool]] = defaultdict(list)
    for feedback in map(json.loads, (run / "feedback.jsonl").read_text().splitlines()):
        if feedback["status"] == "ok":
            answer, reference = answers[feedback["rollout"], feedback["turn"]]
            true = {critic(answer, reference) for critic in (CRITIC.text, place_by_place)}
            by_step[feedback["step"]].append(feedback["text"] in true)
    last = max(by_step)
    parts = {"first": lambda s: s <= SHARE * last, "last": lambda s: s > (1 - SHARE) * last}
    return {
        name: _mean([one for step, found in by_step.items() if part(step) for one in found])
        for name, part in parts.items()
    }


def collect(sweep: Path) -> dict[str, Any]:
    """Measure → arm → one value per seed, for each generator and for critiques; the sweep's notes."""
    from didact.config import read_yaml

    whole = json.loads((sweep / "results.json").read_text())
    found: dict[str, Any] = {"own": {}, "program": {}, "critiques": {}, "held_out": [], "n": 0}

    def add(measure: str, arm: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            found[measure].setdefault(name, {}).setdefault(arm, []).append(round(value, 5))

    for measure, arm in (("own", "frozen"), ("program", "program")):
        [run, *_] = sorted(sweep.glob(f"*/{arm}/seed-*"))
        asked = sweep / "asked" / f"before-{arm}.json"
        measure_start(run, asked, ("didactic",))
        add(measure, "before", solved(json.loads(asked.read_text())["by_turn"]))
    for cell in whole["cells"]:
        arm, run = cell["arm"], sweep / cell["task"] / cell["arm"] / f"seed-{cell['seed']}"
        config = read_yaml(run / "config.yaml")
        theirs = json.loads((run / "result.json").read_text())["eval"]["by_turn"]
        found["held_out"] = [name for name, of in theirs.items() if of["held_out"]]
        found["n"] = config["eval"]["dialogue"]["problems"]
        add("own", arm, solved(theirs))
        file = sweep / "asked" / f"{arm}-{run.name}.json"
        add("program", arm, solved(with_program(run, config, file)))
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        leaks = [step["leak_rate"] for step in steps if "leak_rate" in step]
        add("critiques", arm, {**truth(run), "leak rate": _mean(leaks)})
    found["cells"] = [{"seconds": cell["seconds"]} for cell in whole["cells"]]
    return found | {key: whole[key] for key in ("details", "missing")}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    sweep = Path(sys.argv[1])
    if not (sweep / "results.json").exists():
        print(f"{sweep} is no finished sweep: see recipes/rl2f/README.md", file=sys.stderr)
        return 2
    (sweep / "teachers.json").write_text(json.dumps(collect(sweep), indent=1) + "\n")
    return table.main(HERE, table.TABLES, [str(sweep)])


if __name__ == "__main__":
    sys.exit(main())
