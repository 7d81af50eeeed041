"""Answers with marked passages as a task: trained on it with `sft`, a model becomes a reward model.

    problem    which passages of this answer are good, and which are poor? (in the reward model's own prompt)
    reference  the critique and the marked passages in its format

The reward of a reply is the F1 score of the characters that it marks, and 0 for an unreadable reply. A reply
is correct if it marks exactly the annotated characters.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from didact.annotation.targets import is_run, open_answers
from didact.errors import DataError
from didact.reward_model.formats import make_format
from didact.reward_model.model import Card, Prompter
from didact.spans import locate
from didact.tasks.base import BaseTaskConfig, PolicyLimits, Verdict
from didact.tasks.dataset_task import DatasetTask, EvalFraction, held_out_keys
from didact.types import Feedback, Problem, Span

LOG = logging.getLogger("didact")


class Annotated(NamedTuple):
    """An answer and the feedback with its marked passages."""

    id: str
    problem: Problem
    answer: str
    feedback: Feedback


class AnnotatedTaskConfig(BaseTaskConfig):
    """Answers with marked passages."""

    path: Path
    """A data file or run directory."""
    eval_path: Path | None = None
    """A second one to evaluate on; then all of `path` is for training."""
    format: str = "json_v1"
    """The format of the targets; see reward_model/formats.py."""
    reasoning: bool = True
    """A critique comes before the passages."""
    unmarked: bool = False
    """Also use feedback without spans, for annotators who were asked for passages."""
    eval_fraction: EvalFraction = 0.2

    def build(self, seed: int) -> AnnotatedTask:
        return AnnotatedTask(self, seed=seed)


class AnnotatedTask(DatasetTask):
    """Answers with marked passages; each has a target in the format of `config`.

    The target of an answer is its first usable feedback with spans. Without `eval_path`, a hash holds out a
    part of the questions for evaluation, so that a question is in one split only.

    Attributes:
        card: The format of prompts and replies, saved beside the trained model.
        trained_on: The annotated answers of the training split, whether or not they fit the model.
        left_out: The number of training answers that are not used, by reason.

    Raises:
        DataError: a file or row cannot be used, or there is nothing to train on.
        UsageError: an unknown format.
    """

    def __init__(self, config: AnnotatedTaskConfig, *, seed: int = 0) -> None:
        path, eval_path = config.path, config.eval_path
        make_format(config.format)
        self.name = path.stem
        self.card = Card(format=config.format, reasoning=config.reasoning)
        self.left_out: Counter[str] = Counter()
        found = read_annotated(path, unmarked=config.unmarked)
        if eval_path is None:
            keys = (item.problem.question_key for item in found)
            kept = set(held_out_keys(path, keys, config.eval_fraction, "annotated-split"))
            self.held_out = [item for item in found if item.problem.question_key in kept]
            self.trained_on = [item for item in found if item.problem.question_key not in kept]
        else:
            self.trained_on, self.held_out = found, read_annotated(eval_path, unmarked=config.unmarked)
            self.refuse_seen(self.held_out, str(eval_path))
        files = [file for p in (path, eval_path) if p is not None for file in answer_files(p)]
        super().__init__([], [], files=files, seed=seed, stream="annotated-order")
        self._fill(None)

    def bind_policy(self, limits: PolicyLimits) -> None:
        """Build prompts that leave `max_tokens` for the reply, and leave out longer targets.

        Raises:
            DataError: no training answer is left.
        """
        room = None if limits.context is None else max(0, limits.context - limits.max_tokens)
        self.card = self.card.model_copy(
            update={
                "max_tokens": limits.max_tokens,
                "prompt_tokens": room,
                "chat_template": dict(limits.chat_template),
            }
        )
        self._fill(limits)
        if self.left_out:
            reasons = ", ".join(f"{count} {why}" for why, count in sorted(self.left_out.items()))
            LOG.warning("%s: left out of training: %s", self.name, reasons)

    def write_beside(self, folder: Path) -> None:
        """Write the card that tells how the trained model is prompted."""
        self.card.write(folder)

    def refuse_seen(self, others: Sequence[Annotated], where: str) -> None:
        """Raise DataError where a question of `others` is trained on."""
        known = {item.problem.question_key for item in self.trained_on}
        seen = next((o for o in others if o.problem.question_key in known), None)
        if seen is not None:
            raise DataError(
                f"{where}: {seen.id!r} asks what the reward model is trained on: keep questions on one side, "
                "as with `didact data split`"
            )

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """The F1 score of the marked characters; 0 for an unreadable reply."""
        format_ = make_format(self.card.format)
        reading = format_.read(answer, reasoning=self.card.reasoning)
        if reading is None:
            return Verdict(0.0, False)
        text = str(problem.metadata["answer"])
        found = marked_characters(locate(reading.quotes, text, format_.policy).spans)
        wanted = {(i, label) for start, end, label in problem.metadata["marks"] for i in range(start, end)}
        both = len(found) + len(wanted)
        f1 = 1.0 if not both else 2 * len(found & wanted) / both
        return Verdict(f1, found == wanted)

    def _fill(self, limits: PolicyLimits | None) -> None:
        """Build the problems of both splits, for these limits."""
        prompter = Prompter(self.card, (lambda messages: 0) if limits is None else limits.prompt_tokens)

        def problems(items: Sequence[Annotated], left_out: Counter[str]) -> list[Problem]:
            built = [self._problem(item, prompter, limits, left_out) for item in items]
            return [problem for problem in built if problem is not None]

        self.left_out = Counter()
        self._train, self._eval = problems(self.trained_on, self.left_out), problems(self.held_out, Counter())
        if not self._train:
            reasons = ", ".join(f"{count} {why}" for why, count in self.left_out.items()) or "there are none"
            raise DataError(
                f"{self.name} has no usable annotated answer ({reasons}): raise "
                "sampling.max_tokens, or take a model with a longer context or another format"
            )

    def _problem(
        self, item: Annotated, prompter: Prompter, limits: PolicyLimits | None, left_out: Counter[str]
    ) -> Problem | None:
        card = self.card
        written = prompter.format.write(item.feedback, item.answer, reasoning=card.reasoning)
        if written is None:
            left_out["critiques that the format cannot express"] += 1
            return None
        left_out.update({"passages without an unambiguous quote": written.lost} if written.lost else {})
        messages = prompter.messages(item.problem, item.answer)
        if messages is None:
            left_out["answers too long for the model"] += 1
            return None
        if limits and limits.answer_tokens(written.text) > limits.max_tokens:
            left_out["annotations longer than sampling.max_tokens"] += 1
            return None
        reading = prompter.format.read(written.text, reasoning=card.reasoning)
        spans = () if reading is None else locate(reading.quotes, item.answer, prompter.format.policy).spans
        marks = [[s.start, s.end, s.label] for s in spans]
        metadata = {"answer": item.answer, "marks": marks}
        return Problem(id=item.id, messages=messages, reference=written.text, metadata=metadata)


def marked_characters(spans: Sequence[Span]) -> set[tuple[int, str]]:
    """Every marked character, with its label."""
    return {(i, span.label) for span in spans for i in range(span.start, span.end)}


def read_annotated(path: Path, *, unmarked: bool = False) -> list[Annotated]:
    """The answers with marked passages in a data file or a run, each with its first such feedback.

    Raises:
        DataError: a row cannot be used, or no passage is marked anywhere.
        UsageError: there is no such file.
    """
    answers = open_answers(path).answers()
    found = []
    for answer in answers:
        usable = [f for f in answer.feedback if f.ok and (f.spans or unmarked)]
        usable = [f for f in usable if all(answer.text[s.start : s.end] == s.quote for s in f.spans)]
        if usable:
            name = f"{answer.rollout}#{answer.index}"
            found.append(Annotated(name, answer.problem, answer.text, usable[0]))
    if not found:
        raise DataError(
            f"of the {len(answers)} answers in {path} none has marked passages: run `didact critique "
            f"run {path} --spans`, or train with a source that gives spans"
        )
    return found


def answer_files(path: Path) -> tuple[Path, ...]:
    """The files with the answers of a data file or run directory."""
    return (path / "rollouts.jsonl", path / "feedback.jsonl") if is_run(path) else (path,)
