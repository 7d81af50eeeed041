"""Your own prompts, with a verifier or a judge: a file (JSON lines, a JSON array, CSV, Parquet) or a dataset.

    {"prompt": "What is 2 + 2?", "reference": "4"}
    {"messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"}], "id": "q7"}

Every row is checked when the task is built, before anything is written or trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

from didact.data.rows import SUFFIXES, hub_rows, stem
from didact.errors import UsageError
from didact.tasks.base import BaseTaskConfig, Verdict
from didact.tasks.dataset_task import (
    DatasetTask,
    EvalFraction,
    FileRow,
    LoadedFile,
    LoadedProblem,
    Split,
    read_file,
    shipped,
    split_problems,
)
from didact.tasks.verifiers import Verifier, make_verifier
from didact.types import Problem

PROMPT_COLUMNS = ("prompt", "question", "messages", "problem")
REFERENCE_COLUMNS = ("reference", "answer")
"""Columns that are tried, in this order, where none is configured."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class PromptSource(BaseTaskConfig):
    """Where prompts are read from."""

    path: str | Path
    """A file, or the id of a Hugging Face dataset, as openai/gsm8k."""
    eval_path: str | Path | None = None
    """A second one to evaluate on; then all of `path` is for training."""
    split: str = "train"
    """Of a dataset: the split to train on, or a slice as train[:1000]."""
    eval_split: str | None = None
    """Of a dataset: the split to evaluate on; then all of `split` is for training."""
    subset: str | None = None
    """Of a dataset with several configurations: which one, as main."""
    prompt_column: str | None = None
    """The question, as text or chat messages; null takes the first of prompt, question, messages, problem."""
    eval_fraction: EvalFraction = 0.2


class PromptsTaskConfig(PromptSource):
    """Prompts, with references where a verifier needs them."""

    verifier: str | dict[str, Any] = "exact"
    """exact, numeric, regex, file.py:function, a mapping with a name and settings, or none to learn from
    critiques alone; see tasks/verifiers.py."""
    reference_column: str | None = None
    """The right answer, a text or a number; null takes the first of reference, answer."""

    def build(self, seed: int) -> PromptsTask:
        return PromptsTask(self, seed=seed)


class PromptsTask(DatasetTask):
    """Prompts and references of a file or dataset.

    All columns but prompt, reference and "id" go into the problem's metadata. Without a second file or split
    the rows are split by a hash of the prompt, so that the split is the same for every seed and method, and
    equal prompts are on one side.
    """

    def __init__(self, config: PromptsTaskConfig, *, seed: int = 0) -> None:
        self._verifier = make_verifier(config.verifier)
        split, self._columns = load_prompts(config, self._verifier, config.reference_column)
        self.name = stem(Path(config.path))
        files = (*split.files, self._verifier.file)
        super().__init__(split.train, split.evaluation, files=files, seed=seed, stream="jsonl-order")

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer with the configured verifier."""
        columns = self._columns
        asked: Any = problem.question
        if len(problem.messages) > 1:
            asked = [m.model_dump() for m in problem.messages]
        reference = problem.metadata.get(columns.reference, problem.reference)
        row = {**problem.metadata, columns.prompt: asked, columns.reference: reference}
        return self._verifier.verify(answer, reference or "", row)


class WritingTaskConfig(PromptSource):
    """Prompts to write to."""

    path: str | Path = shipped("didact.tasks", "writing_prompts.jsonl")
    """A file or dataset of prompts; by default the set that ships with Didact."""

    def build(self, seed: int) -> WritingTask:
        return WritingTask(self, seed=seed)


class WritingTask(DatasetTask):
    """Pieces to write, with no verifier: the scorer given to `bind_judge` gives the rewards.

    The prompts are read like those of `PromptsTask`. The task knows no model; its usual scorer is
    `feedback.writing_judge.RubricJudge`. Where it fails there is no reward.
    """

    name = "writing"
    needs_judge = True

    def __init__(self, config: WritingTaskConfig, *, seed: int = 0) -> None:
        split, _ = load_prompts(config, make_verifier("none"))
        super().__init__(split.train, split.evaluation, files=split.files, seed=seed, stream="jsonl-order")

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return self.verify_many([(problem, answer)])[0]

    def verify_many(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, answer), in order, scored as one batch.

        Raises:
            UsageError: no scorer is bound, or none of its requests can succeed.
        """
        if self.judge is None:
            raise UsageError(
                "the task 'writing' has no verifier, and no judge was bound to it: name one for its rewards"
            )
        return self.judge.score(asked)


class Columns(NamedTuple):
    """The columns of one file."""

    prompt: str
    reference: str
    guessed: bool
    """The prompt's column was not configured; single rows may have another of `PROMPT_COLUMNS`."""


def load_prompts(
    config: PromptSource, verifier: Verifier, reference_column: str | None = None
) -> tuple[Split, Columns]:
    """The problems of the configured source, and the columns of the file to train on."""
    sources = [(config.path, config.split)]
    if config.eval_path is not None or config.eval_split is not None:
        sources.append((config.eval_path or config.path, config.eval_split or config.split))
    loaded, found = [], []
    for path, split in sources:
        rows, files, source = _open(path, split, config.subset)
        head = list(islice(rows, 1))
        columns = _guess(config.prompt_column, reference_column, head[0].values if head else {})
        problems = [_problem(row, columns, verifier) for row in chain(head, rows)]
        loaded.append(LoadedFile(source, problems, {}, files))
        found.append(columns)
    evaluation = loaded[1] if len(loaded) > 1 else None
    return split_problems(loaded[0], evaluation, config.eval_fraction), found[0]


def _open(
    path: str | Path, split: str, subset: str | None
) -> tuple[Iterator[FileRow], tuple[Path, ...], str]:
    """The rows, the files that hold them, and the source's name in errors."""
    file, text = Path(path), str(path)
    if file.exists() or text.lower().endswith(SUFFIXES) or not _HUB_ID.fullmatch(text):
        return read_file(file), (file,), text
    source, name = f"dataset {text}, split {split}", stem(file)
    values, files = hub_rows(text, split=split, subset=subset)
    numbered = enumerate(values, start=1)
    return (FileRow(source, i, row, f"{name}/{split}/{i}") for i, row in numbered), files, source


def _guess(prompt: str | None, reference: str | None, row: Mapping[str, Any]) -> Columns:
    def first(names: tuple[str, ...], kinds: type | UnionType) -> str:
        return next((name for name in names if isinstance(row.get(name), kinds)), names[0])

    return Columns(
        prompt or first(PROMPT_COLUMNS, str | list),
        reference or first(REFERENCE_COLUMNS, str | int | float),
        prompt is None,
    )


def _problem(row: FileRow, columns: Columns, verifier: Verifier) -> LoadedProblem:
    column = columns.prompt
    if columns.guessed and column not in row.values:
        column = next((name for name in PROMPT_COLUMNS if name in row.values), column)
    if column not in row.values:
        row.missing(column, "set prompt_column, or add it")
    reference = _reference(row, columns.reference, verifier)
    metadata = {k: v for k, v in row.values.items() if k not in (column, columns.reference, "id")}
    if reference is not None and not verifier.reference_is_answer:
        metadata[columns.reference], reference = reference, None
    problem = Problem(
        id=row.identity("id"), messages=row.messages(column), reference=reference, metadata=metadata
    )
    return LoadedProblem(problem, row, problem.question_key)


def _reference(row: FileRow, column: str, verifier: Verifier) -> str | None:
    if row.values.get(column) is None:
        if verifier.needs_reference:
            row.missing(
                column,
                "the verifier needs it: set reference_column, or verifier=none to learn from critiques alone",
            )
        return None
    reference = row.text_or_number(column)
    if wrong := verifier.check_reference(reference):
        row.fail(column, wrong)
    return reference
