"""Precision and recall of the leak meter, without a judge, on critiques with and without planted leaks.

    python benchmarks/leakage/score.py             # the reported half; writes results.json
    python benchmarks/leakage/score.py --dev -v    # the half that the rules were tuned on, with every miss

A leak counts as found under any kind; the intervals are Wilson's, at 95 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from didact.evaluation.stats import wilson
from didact.leakage import leak

HERE = Path(__file__).parent
Row = dict[str, Any]


def share(hits: int, n: int) -> dict[str, Any]:
    if n == 0:
        return {"hits": 0, "n": 0}
    low, high = wilson(hits, n)
    return {"hits": hits, "n": n, "share": round(hits / n, 4), "low": round(low, 4), "high": round(high, 4)}


def flagged(row: Row) -> bool:
    return leak(row["critique"], row["reference"], question=row["question"], answer=row["answer"]).leaks


def scored(rows: Sequence[Row], found: Sequence[bool]) -> dict[str, Any]:
    """Precision, recall, and the share flagged of each kind and domain."""
    pairs = list(zip(rows, found, strict=True))
    true = sum(f for r, f in pairs if r["leaks"])

    def by(column: str, leaks: bool) -> dict[str, Any]:
        values = sorted({r[column] for r in rows if r["leaks"] == leaks})
        groups = {v: [f for r, f in pairs if r[column] == v and r["leaks"] == leaks] for v in values}
        return {v: share(sum(g), len(g)) for v, g in groups.items()}

    return {
        "precision": share(true, sum(found)),
        "recall": share(true, sum(r["leaks"] for r in rows)),
        "recall_by_kind": by("kind", True),
        "recall_by_domain": by("domain", True),
        "false_alarms_by_kind": by("kind", False),
        "false_alarms_by_domain": by("domain", False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="the development half; results.json stays")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every miss and false alarm")
    args = parser.parse_args()
    file = HERE / ("leaks_dev.jsonl" if args.dev else "leaks.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found, took = [], []
    for row in rows:
        start = time.perf_counter()
        found.append(flagged(row))
        took.append(time.perf_counter() - start)
    results = scored(rows, found)
    print(json.dumps(results, indent=1))
    print(f"median {1000 * statistics.median(took):.2f} ms a critique")
    if args.verbose:
        for row, f in zip(rows, found, strict=True):
            if f != row["leaks"]:
                print(
                    "MISS " if row["leaks"] else "ALARM",
                    row["id"],
                    repr(row["reference"]),
                    "|",
                    row["critique"],
                )
    if not args.dev:
        text = json.dumps({"file": file.name, "critiques": len(rows), **results}, indent=1)
        (HERE / "results.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
