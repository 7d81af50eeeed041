"""Tables from a sweep of this folder: who gains from a teacher, and who can do without.

    python recipes/rl2f/table.py runs/rl2f/sweep

It prints them, and writes what they are made of to by_turn.json in the sweep's directory. Numbers are means
over seeds with 95 % t intervals over seeds, in per cent. "yes" says that an arm's interval lies wholly above
those of what it is compared with, "higher" that its mean does.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

COMPARED = ("retry", "resample")


class Share(NamedTuple):
    """A mean over seeds and its interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float], low: float = 0.0, high: float = 1.0) -> Share:
        """95 % t interval over runs, cut to [low, high]; without width where there is one run only."""
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean, mean, mean)
        half = float(student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
        return cls(mean, max(low, mean - half), min(high, mean + half))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class Found(NamedTuple):
    """All runs of a sweep: family → arm → one table a seed."""

    held_out: dict[str, bool]
    tables: dict[str, dict[str, list[dict[str, Any]]]]
    leaks: dict[str, list[float]]

    def share(self, family: str, arm: str, protocol: str, turn: int, name: str = "solved") -> Share | None:
        """The share of problems at a turn under a protocol."""
        values = [
            table["protocols"][protocol]["by_turn"][turn - 1].get(name)
            for table in self.tables[family].get(arm, [])
        ]
        known = [value for value in values if value is not None]
        return Share.over(known) if known else None


def read(sweep: Path) -> Found:
    """Everything that the finished runs of a sweep's directory hold."""
    held_out: dict[str, bool] = {}
    tables: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    leaks: dict[str, list[float]] = defaultdict(list)
    for result in sorted(sweep.glob("*/*/seed-*/result.json")):
        arm = result.parent.parent.name
        found = json.loads(result.read_text())["eval"]
        for family, table in found.get("by_turn", {}).items():
            held_out[family] = table["held_out"]
            tables[family][arm].append(table)
        steps = [json.loads(line) for line in (result.parent / "metrics.jsonl").read_text().splitlines()]
        rates = [step["leak_rate"] for step in steps if "leak_rate" in step]
        if rates:
            leaks[arm].append(float(np.mean(rates)))
    if before_file(sweep).exists():
        for family, table in json.loads(before_file(sweep).read_text())["by_turn"].items():
            tables[family]["before"] = [table]
    return Found(held_out, {k: dict(v) for k, v in tables.items()}, dict(leaks))


def before_file(sweep: Path) -> Path:
    """What the starting model was, as measures.py finds it."""
    return sweep / "before.json"


def last_turn(found: Found) -> int:
    """T of the sweep's evaluations."""
    tables = [t for arms in found.tables.values() for seeds in arms.values() for t in seeds]
    return int(tables[0]["turns"])


def main_table(found: Found, baseline: str) -> Iterable[str]:
    """Solved with the teacher, beside second tries of this model and the baseline's, and single-turn RL."""
    turns = last_turn(found)
    for family, arms in found.tables.items():
        yield f"**{family}**{' (never trained on)' if found.held_out[family] else ''}"
        yield ""
        yield (
            f"| arm | seeds | turn 1 | teacher, turn 4 | teacher, turn {turns} | retry, turn {turns} "
            f"| resample, turn {turns} | above `{baseline}` | above all second tries | leak rate |"
        )
        yield "|---" * 10 + "|"
        theirs = found.share(family, baseline, "didactic", turns)
        for arm, seeds in arms.items():
            mine = found.share(family, arm, "didactic", turns)
            tries = [found.share(family, arm, name, turns) for name in COMPARED]
            all_tries = [*tries, *(found.share(family, baseline, name, turns) for name in COMPARED)]
            leak = found.leaks.get(arm)
            yield "| " + " | ".join([
                f"`{arm}`", str(len(seeds)), shown(found.share(family, arm, "didactic", 1)),
                shown(found.share(family, arm, "didactic", min(4, turns))), shown(mine), *map(shown, tries),
                "–" if arm == baseline else apart(mine, [theirs]), apart(mine, all_tries),
                "–" if leak is None else f"{100 * float(np.mean(leak)):.2f}",
            ]) + " |"  # fmt: skip
        yield ""


def own_table(found: Found) -> Iterable[str]:
    """The model as its own teacher: with an oracle that stops it, without, and stopping by itself."""
    turns = last_turn(found)
    for family, arms in found.tables.items():
        yield f"**{family}**{' (never trained on)' if found.held_out[family] else ''}, {turns} turns"
        yield ""
        yield (
            "| arm | own critiques, oracle stops | last answer | stops by itself | own verdicts true "
            "| retry, last answer | majority of as many |"
        )
        yield "|---" * 7 + "|"
        for arm, seeds in arms.items():
            true = [t["protocols"]["self-critique"].get("own_verdict_true") for t in seeds]
            known = [value for value in true if value is not None]
            yield "| " + " | ".join([
                f"`{arm}`", *(shown(found.share(family, arm, "self-critique", turns, name))
                              for name in ("solved", "final", "stopped")),
                shown(Share.over(known) if known else None),
                shown(found.share(family, arm, "retry", turns, "final")),
                shown(found.share(family, arm, "resample", turns, "majority")),
            ]) + " |"  # fmt: skip
        yield ""


def shown(share: Share | None) -> str:
    return "–" if share is None else str(share)


def apart(mine: Share | None, others: Sequence[Share | None]) -> str:
    """Is an interval above all the others, without touching one?"""
    known = [other for other in others if other is not None]
    if mine is None or not known:
        return "–"
    if all(mine.low > other.high for other in known):
        return "yes"
    return "higher" if all(mine.mean > other.mean for other in known) else "no"


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__)
        return 2
    sweep, baseline = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else "grpo"
    found = read(sweep)
    if not found.tables:
        print(f"{sweep} holds no finished run with dialogues: see recipes/rl2f/README.md", file=sys.stderr)
        return 2
    (sweep / "by_turn.json").write_text(json.dumps(found._asdict(), indent=1) + "\n")
    print("\n".join([*main_table(found, baseline), *own_table(found)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
