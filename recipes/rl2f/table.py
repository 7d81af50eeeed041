"""Write the README's tables: accuracy with a teacher, and without.

    python recipes/rl2f/table.py runs/rl2f/sweep runs/rl2f/switches

Without arguments they are written from results/. Numbers are means over seeds with 95 % t intervals over
seeds, in percent. "yes": the arm's interval lies wholly above those of its comparisons; "higher": its mean
does.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from readme_tables import Table, headed, main, row, with_notes  # noqa: E402

COMPARED = ("retry", "resample")
KEPT = (1, 4, 10)
"""The turns whose numbers are stored."""
MEASURES = ("solved", "final", "stopped", "majority")


class Share(NamedTuple):
    """A mean over seeds and its interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float], low: float = 0.0, high: float = 1.0) -> Share:
        """95 % t interval over runs, cut to [low, high]; of zero width for a single run."""
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean, mean, mean)
        half = float(student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
        return cls(mean, max(low, mean - half), min(high, mean + half))

    def __str__(self) -> str:
        if self.low == self.mean == self.high:
            return f"{100 * self.mean:.1f}"
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def before_file(sweep: Path) -> Path:
    """The starting model's evaluation, written by measures.py."""
    return sweep / "before.json"


def collect(sweep: Path) -> dict[str, Any]:
    """The data of the tables, from the runs of a sweep.

    Returns:
        `families`: generator → `held_out`, and arm → one record per seed; the notes of the sweep's own
        results.
    """
    families: dict[str, dict[str, Any]] = {}
    leaks: dict[str, list[float]] = defaultdict(list)

    def add(arm: str, seed: int | None, found: Mapping[str, Any]) -> None:
        for family, table in found.items():
            of = families.setdefault(family, {"held_out": table["held_out"], "arms": defaultdict(list)})
            of["arms"][arm].append({"seed": seed, "n": _n(table), "protocols": _kept(table)})

    if before_file(sweep).exists():
        add("before", None, json.loads(before_file(sweep).read_text())["by_turn"])
    whole = json.loads((sweep / "results.json").read_text())
    for cell in whole["cells"]:
        run = sweep / cell["task"] / cell["arm"] / f"seed-{cell['seed']}"
        add(cell["arm"], cell["seed"], json.loads((run / "result.json").read_text())["eval"]["by_turn"])
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rates = [step["leak_rate"] for step in steps if "leak_rate" in step]
        if rates:
            leaks[cell["arm"]].append(float(np.mean(rates)))
    notes = {key: whole[key] for key in ("baseline", "details", "missing")}
    cells = [{"seconds": cell["seconds"]} for cell in whole["cells"]]
    return {"families": families, "leaks": leaks, "cells": cells, **notes}


def _n(table: Mapping[str, Any]) -> int:
    return int(table["protocols"]["didactic"]["by_turn"][0]["n"])


def _kept(table: Mapping[str, Any]) -> dict[str, Any]:
    """Protocol → turn → measure, and the share of true self-verdicts."""
    found: dict[str, Any] = {}
    for name, protocol in table["protocols"].items():
        by_turn = {str(record["turn"]): record for record in protocol["by_turn"]}
        found[name] = {
            turn: {m: round(by_turn[turn][m], 5) for m in MEASURES if by_turn[turn].get(m) is not None}
            for turn in map(str, KEPT)
            if turn in by_turn
        }
        if protocol.get("own_verdict_true") is not None:
            found[name]["own_verdict_true"] = round(protocol["own_verdict_true"], 5)
    return found


def share(
    seeds: Sequence[Mapping[str, Any]], protocol: str, turn: int, measure: str = "solved"
) -> Share | None:
    """The share of problems solved by a turn under a protocol."""
    values = [s["protocols"].get(protocol, {}).get(str(turn), {}).get(measure) for s in seeds]
    known = [value for value in values if value is not None]
    return Share.over(known) if known else None


def with_teacher(results: Mapping[str, Any]) -> Iterable[str]:
    """Solved with the teacher, beside second tries of this model and of the baseline, and single-turn RL."""
    first, middle, last = KEPT
    base = results["baseline"]
    for family, of in results["families"].items():
        arms = of["arms"]
        yield heading(family, of)
        yield ""
        yield from headed([
            "arm", "seeds", f"turn {first}", f"teacher, turn {middle}", f"teacher, turn {last}",
            f"retry, turn {last}", f"resample, turn {last}", f"above `{base}`", "above all second tries",
            "leak rate",
        ])  # fmt: skip
        theirs = share(arms[base], "didactic", last)
        their_tries = [share(arms[base], name, last) for name in COMPARED]
        for arm, seeds in arms.items():
            mine, tries = share(seeds, "didactic", last), [share(seeds, name, last) for name in COMPARED]
            leaked = results["leaks"].get(arm)
            yield row([
                named(arm), str(len(seeds)),
                shown(share(seeds, "didactic", first)), shown(share(seeds, "didactic", middle)), shown(mine),
                *map(shown, tries), "–" if arm in (base, "before") else apart(mine, [theirs]),
                "–" if arm == "before" else apart(mine, [*tries, *their_tries]),
                "–" if not leaked else f"{100 * np.mean(leaked):.2f}",
            ])  # fmt: skip
        yield ""


def alone(results: Mapping[str, Any]) -> Iterable[str]:
    """The model as its own teacher: stopped by an oracle, not stopped, and stopping by itself."""
    last = KEPT[-1]
    for family, of in results["families"].items():
        yield heading(family, of)
        yield ""
        yield from headed([
            "arm", f"own critiques, oracle stops, turn {last}", f"own critiques, answer {last}",
            "stops by itself", "own verdicts true", f"retry, answer {last}", f"majority of {last}",
        ])  # fmt: skip
        for arm, seeds in of["arms"].items():
            true = [s["protocols"].get("self-critique", {}).get("own_verdict_true") for s in seeds]
            known = [value for value in true if value is not None]
            yield row([
                named(arm),
                *(shown(share(seeds, "self-critique", last, m)) for m in ("solved", "final", "stopped")),
                shown(Share.over(known) if known else None), shown(share(seeds, "retry", last, "final")),
                shown(share(seeds, "resample", last, "majority")),
            ])  # fmt: skip
        yield ""


def both(results: Mapping[str, Any]) -> Iterable[str]:
    """Both tables."""
    yield "#### With the teacher"
    yield ""
    yield from with_teacher(results)
    yield "#### Alone"
    yield ""
    yield from alone(results)


def by_teacher(results: Mapping[str, Any]) -> Iterable[str]:
    """By training teacher: solved with that teacher and with the program; how true its critiques were."""
    arms = list(next(iter(results["own"].values())))
    columns = [
        (arm, whom) for arm in arms for whom in ("own", "program") if (arm, whom) != ("program", "own")
    ]
    says = {"own": "with its own teacher", "program": "with the program"}
    yield from headed([
        f"solved by turn {KEPT[-1]}, {results['n']} problems a seed, %",
        *(f"{named(arm)}, {says[whom]}" for arm, whom in columns),
    ])  # fmt: skip
    for family in results["own"]:
        values = [shown(Share.over(results[whom][family][arm])) for arm, whom in columns]
        yield row([family + " (never trained on)" * (family in results["held_out"]), *values])
    yield ""
    arms.remove("before")
    yield from headed(["of the critiques in training, %", *map(named, arms)])
    for key, what in {"first": "true, first fifth of the steps", "last": "true, last fifth"}.items():
        yield row([what, *(shown(Share.over(results["critiques"][key][arm])) for arm in arms)])
    yield row(["leaks", *(f"{100 * np.mean(results['critiques']['leak rate'][arm]):.2f}" for arm in arms)])


def heading(family: str, of: Mapping[str, Any]) -> str:
    """A generator and its number of problems."""
    n = next(iter(of["arms"].values()))[0]["n"]
    return f"**{family}**{' (never trained on)' if of['held_out'] else ''}, {n} problems a seed"


def named(arm: str) -> str:
    """An arm's name in a table, the starting model's included."""
    return "before training" if arm == "before" else f"`{arm}`"


def shown(found: Share | None) -> str:
    return "–" if found is None else str(found)


def apart(mine: Share | None, others: Sequence[Share | None]) -> str:
    """Whether an interval lies above all others without touching one."""
    known = [other for other in others if other is not None]
    if mine is None or not known:
        return "–"
    if all(mine.low > other.high for other in known):
        return "yes"
    return "higher" if all(mine.mean > other.mean for other in known) else "no"


TABLES: dict[str, tuple[str, Table]] = {
    "sweep": ("by_turn.json", with_notes(both)),
    "switches": ("by_turn.json", with_notes(with_teacher)),
    "teachers": ("teachers.json", with_notes(by_teacher)),
}

if __name__ == "__main__":
    for directory in map(Path, sys.argv[1:]):
        (directory / "by_turn.json").write_text(json.dumps(collect(directory), indent=1) + "\n")
    sys.exit(main(HERE, TABLES, sys.argv[1:]))
