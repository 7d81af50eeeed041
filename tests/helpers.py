"""Rollouts by hand, a policy small enough to enumerate, and the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from didact import losses
from didact.cli.main import main
from didact.engines.base import Loss, Sample
from didact.feedback.model_critic import ModelCritic
from didact.llm.chat import ChatModel
from didact.methods.base import LossTerm
from didact.prompts import Prompt
from didact.rendering.renderer import Renderer
from didact.rollouts.base import StepContext
from didact.tasks import make_task
from didact.tasks.base import Verdict
from didact.types import Feedback, Problem, Provenance, Rollout, Row, Turn

CRITIC = Provenance(author="test")


def didact(*words: object) -> int:
    """The exit code of `didact …`, run in this process."""
    before = sys.argv
    sys.argv = ["didact", *map(str, words)]
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        sys.argv = before
    return 0


def calls_of(work: Callable[[], object]) -> int:
    """How many functions `work` calls, in Python and in C: a cost that is the same on every machine."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


class WordTokenizer:
    """One id a character, and an end; enough for a Renderer."""

    eos_token_id = 0
    chat_template = None
    name_or_path = "characters"
    all_special_tokens = ()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "".join(chr(i) for i in ids if i)


class EchoTask:
    """The reference is the only right answer."""

    name = "echo"

    def train_problem(self, index: int) -> Problem:
        return Problem.ask(f"q{index}", id=str(index), reference="a")

    def eval_problems(self, n: int) -> list[Problem]:
        return [self.train_problem(1000 + i) for i in range(n)]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return Verdict(float(answer == problem.reference), answer == problem.reference)


class ScriptedEngine:
    """Answers prompts by a function of their text and remembers them."""

    max_length: int | None = None

    def __init__(self, answer) -> None:  # type: ignore[no-untyped-def]
        self.answer = answer
        self.prompts: list[str] = []
        self.tokenizer = WordTokenizer()

    def sample(self, prompts, n, params, *, seed, weights=None):  # type: ignore[no-untyped-def]
        texts = [self.tokenizer.decode(p) for p in prompts]
        self.prompts += texts
        return [[self._sample(self.answer(text, j)) for j in range(n)] for text in texts]

    def _sample(self, text: str) -> Sample:
        ids = (*self.tokenizer.encode(text), 0)
        return Sample(ids, (-0.5,) * len(ids), "eos")


class CountingCritic:
    """Says "wrong N"; fails on the requests whose number is in `fails`."""

    def __init__(self, fails: Sequence[int] = ()) -> None:
        self.fails = fails
        self.asked = 0

    def critique(self, requests):  # type: ignore[no-untyped-def]
        found = []
        for request in requests:
            number, self.asked = self.asked, self.asked + 1
            failed = number in self.fails
            found.append(
                Feedback(
                    turn=request.index, text="" if failed else f"wrong {number}", source="program",
                    status="failed" if failed else "ok", error="scripted" if failed else None,
                    saw_reference=True, provenance=CRITIC,
                )
            )  # fmt: skip
        return found


def context(engine=None, feedback=None, **changes) -> StepContext:  # type: ignore[no-untyped-def]
    from didact.engines.base import SamplingParams

    engine = engine or ScriptedEngine(lambda text, j: "a")
    values = {
        "engine": engine, "renderer": Renderer(engine.tokenizer), "task": EchoTask(),
        "feedback": feedback, "sampling": SamplingParams(max_tokens=4), "seed": 0, **changes,
    }  # fmt: skip
    return StepContext(**values)


def turn(prompt: Sequence[int], token: int, logprob: float, reward: float | None) -> Turn:
    return Turn(
        prompt_ids=tuple(prompt), completion_ids=(token,), logprobs=(logprob,), text=str(token),
        stop_reason="eos", reward=reward,
    )  # fmt: skip


def dialogue(
    r0: float | None, r1: float | None = None, *, group: str = "g", failed: bool = False, tokens=(5, 6)
) -> Rollout:  # type: ignore[no-untyped-def]
    """A rollout with given rewards: a second turn if r1 is given, a failed critic if asked for."""
    turns = [turn((1,), tokens[0], -1.0, r0)]
    feedback = ()
    if r1 is not None or failed:
        feedback = (
            Feedback(
                text="" if failed else "mend it", source="program", saw_reference=True, provenance=CRITIC,
                status="failed" if failed else "ok", error="down" if failed else None,
            ),
        )  # fmt: skip
    if r1 is not None:
        turns.append(turn((2,), tokens[1], -2.0, r1))
    problem = Problem.ask("q", id=group, reference="a")
    return Rollout(
        id=f"{group}/{id(turns)}", group=group, problem=problem, turns=tuple(turns), feedback=feedback
    )


def advantages(term: LossTerm) -> list[float]:
    """The advantage of each row of single-token completions, in order."""
    return [float(row.fields["advantages"][-1]) for row in term.rows]


def gradient(
    terms: Sequence[tuple[Loss, Sequence[Row]]], logits: dict[int, Tensor], of: Tensor
) -> np.ndarray:
    """∇ of the summed losses with respect to `of`, for a policy that is a table of logits by context id."""
    total = torch.zeros((), dtype=torch.float64)
    for loss, rows in terms:
        for row in rows:
            context_id, token = int(row.input_ids[-1]), int(row.target_ids[-1])
            logprobs = logits[context_id].log_softmax(-1)[token].view(1, 1)
            fields = {
                f"{k}_BT": torch.tensor(v[-1:], dtype=torch.float64).view(1, 1) for k, v in row.fields.items()
            }
            total = total + losses.BUILTIN[loss.name](logprobs, **fields, **loss.settings).loss
    if not total.requires_grad:
        return np.zeros(of.shape)
    (found,) = torch.autograd.grad(total, of, allow_unused=True)
    return np.zeros(of.shape) if found is None else found.numpy()


def task_of(name, path=None, *, seed=0, **settings):
    """A task from a file by its name in a config."""
    return make_task(name, settings if path is None else {"path": path, **settings}, seed=seed)


def generator_task(name, config=None, *, seed=0, **settings):
    """A reasoning-gym generator as a task."""
    return make_task(f"reasoning_gym:{name}", {**(config or {}), **settings}, seed=seed)


def mixture_task(parts, held_out=None, *, seed=0):
    """Several generators as a task."""
    return make_task("mixture", {"parts": parts, "held_out": held_out or {}}, seed=seed)


code_task, math_task, prompts_task, offline_task, writing_task, annotated_task = (
    partial(task_of, name) for name in ("code", "math", "prompts", "offline", "writing", "annotated")
)


def teacher(model: ChatModel, prompt: str | Prompt = "teacher_v1") -> ModelCritic:
    """A teacher that sees the reference."""
    return ModelCritic(model, "teacher", prompt, private=True)
