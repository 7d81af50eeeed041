"""`didact data split`: a train/test split without shared prompts, near-duplicates or users.

Rows that must stay together form groups: equal or near-duplicate prompts, near-duplicate long answers,
and, by user, all rows of one user. Groups are ranked by a hash of their prompts and the seed, and go to the
test side in that order until it has its share. The split does not depend on the order of rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from didact.data.files import beside, create_jsonl, read_examples, refuse_existing
from didact.data.near_duplicates import UnionFind, join_near, normalised
from didact.errors import DataError, UsageError
from didact.rng import derive_seed
from didact.types import Example, Problem

LONG_ANSWER = 80
"""Minimum length of answers to compare, in characters; shorter ones, as "Yes.", are alike by chance."""


@dataclass(frozen=True)
class SplitReport:
    """The counts of a split."""

    train: Path
    test: Path
    train_rows: int
    test_rows: int
    train_groups: int
    test_groups: int
    largest_group: int
    without_user: int
    """Rows without a user in a split by user; they are grouped by prompt alone."""

    def render(self) -> str:
        total = self.train_rows + self.test_rows
        lines = [
            f"train: {self.train_rows:,} rows in {self.train_groups:,} groups → {self.train}",
            f"test:  {self.test_rows:,} rows in {self.test_groups:,} groups → {self.test} "
            f"({self.test_rows / total:.1%})",
            f"  the largest group that stays together has {self.largest_group:,} rows",
        ]
        if self.without_user:
            lines.append(f"  {self.without_user:,} rows name no user; they are kept together by their prompt")
        return "\n".join(lines)


def split_file(
    path: Path,
    *,
    by: Literal["problem", "user"] = "problem",
    test: float = 0.1,
    seed: int = 0,
    folder: Path | None = None,
    threshold: float = 0.8,
) -> SplitReport:
    """Split a data file into NAME.train.jsonl and NAME.test.jsonl, beside it or in `folder`.

    Args:
        path: The data file.
        by: "problem" keeps prompts on one side, "user" prompts and users.
        test: The test side's share of the rows, in (0, 1).
        seed: The seed of the split.
        folder: The folder of the two files; that of the data file by default.
        threshold: The minimum similarity of near-duplicates, in (0, 1]; 1 compares for equality.

    Raises:
        UsageError: a setting out of range, or one of the files exists.
        DataError: a row cannot be used, or no such split exists.
    """
    if not 0 < test < 1:
        raise UsageError(f"--test must lie between 0 and 1, not {test}")
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold must lie in (0, 1], not {threshold}")
    files = beside(path, "train", folder), beside(path, "test", folder)
    refuse_existing(*files)
    examples = list(read_examples(path))
    if by == "user" and not any(example.user for example in examples):
        raise DataError(f"{path}: no row names a user, so it cannot be split by user; use --by problem")
    groups = group_rows(examples, by=by, threshold=threshold)
    chosen = choose_test(examples, groups, test=test, seed=seed, where=str(path), by=by)
    with create_jsonl(files[0]) as train_file, create_jsonl(files[1]) as test_file:
        for i, example in enumerate(examples):
            (test_file if i in chosen else train_file).add(example)
    in_test = sum(group[0] in chosen for group in groups)
    without = sum(not example.user for example in examples) if by == "user" else 0
    return SplitReport(
        *files,
        len(examples) - len(chosen),
        len(chosen),
        len(groups) - in_test,
        in_test,
        max(map(len, groups)),
        without,
    )


def prompt_text(problem: Problem) -> str:
    """The conversation as one text, for comparing prompts.

    System messages are left out: a long one that all prompts share would make all of them near-duplicates.
    """
    return "\n".join(m.content for m in problem.messages if m.role != "system")


def group_rows(examples: list[Example], *, by: str, threshold: float = 0.8) -> list[list[int]]:
    """Groups of indices of rows that must stay on one side."""
    union = UnionFind(len(examples))
    if by == "user":
        union.join_equal([example.user or None for example in examples])
    union.join_equal([example.problem.id for example in examples])
    join_near(union, [prompt_text(example.problem) for example in examples], threshold=threshold)
    answers = [example.completion for example in examples]
    join_near(union, answers, threshold=threshold, min_chars=LONG_ANSWER)
    return union.groups()


def choose_test(
    examples: list[Example], groups: list[list[int]], *, test: float, seed: int, where: str, by: str
) -> set[int]:
    """Indices of the test side: whole groups in the order of their hashes, up to the share.

    Raises:
        DataError: there is only one group, or the share cannot be met even roughly.
    """
    n, target = len(examples), test * len(examples)
    if len(groups) < 2:
        raise DataError(f"{where} cannot be split: {_why_one_group(examples, by)}. Nothing was written.")

    def place(group: list[int]) -> int:
        keys = (normalised(prompt_text(examples[i].problem)) for i in group)
        return derive_seed(seed, "data-split", min(keys))

    ranked = sorted(groups, key=place)
    chosen: list[list[int]] = []
    left: list[list[int]] = []
    size = 0
    for i, group in enumerate(ranked):
        train_has_one = left or i < len(ranked) - 1
        if train_has_one and size + len(group) <= round(target):
            chosen.append(group)
            size += len(group)
        else:
            left.append(group)
    nearest = min(left, key=lambda group: abs(size + len(group) - target))  # the first of equals
    if not chosen or (len(left) > 1 and abs(size + len(nearest) - target) < abs(size - target)):
        chosen.append(nearest)
        size += len(nearest)
    if abs(size - target) > 0.5 * target + 1:
        raise DataError(
            f"{where}: a test side of {test:.0%} is impossible: the {n:,} rows form {len(groups):,} groups "
            f"that must stay together; the best is {size / n:.0%}. Take --test {size / n:.2f}, or add rows. "
            "Nothing was written."
        )
    return {i for group in chosen for i in group}


def _why_one_group(examples: list[Example], by: str) -> str:
    if len(examples) == 1:
        return "it has one row only"
    users = Counter(example.user for example in examples)
    if by == "user" and len(users) == 1:
        return f"all {len(examples):,} rows are of one user; use --by problem"
    if len({normalised(prompt_text(example.problem)) for example in examples}) == 1:
        return f"all {len(examples):,} rows have one prompt"
    also = " or users" if by == "user" else ""
    return (
        f"all {len(examples):,} rows hang together by equal or near-duplicate prompts, answers{also}; "
        "raise --threshold, or add other rows"
    )
