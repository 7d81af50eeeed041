"""The records of a training step, in the order in which they are made.

    Problem ─ collect ─▶ Rollout = (Turn, Feedback, Turn, …) ─ rows ─▶ Row

Everything but `Row` is a frozen pydantic model: it round-trips through one JSON line with
`model_dump_json` and `model_validate_json`, refuses unknown keys and can be read without torch.
`Row` holds numpy arrays, because it only lives between a method and an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from didact.thoughts import answer_start, answer_text

Ids: TypeAlias = tuple[int, ...]
"""Token ids. Text becomes ids once; sampled ids are kept and never re-encoded."""

StopReason: TypeAlias = Literal["eos", "stop", "length"]
FeedbackSourceName: TypeAlias = Literal["human", "judge", "program", "teacher", "self"]
ErrorKind: TypeAlias = Literal["budget", "server", "invalid_reply", "leak", "missing_reference", "not_dealt"]
"""Why a feedback failed.

budget             a limit on requests or USD was reached; nothing was sent
server             a model server refused the request or could not be reached
invalid_reply      the reply was cut off, empty or not in the requested format
leak               the critique was dropped because it states the answer
missing_reference  the source needs a reference and the problem has none
not_dealt          a control found no critique of another problem in the batch
"""


class Record(BaseModel):
    """A frozen JSON record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(Record):
    """One chat message.

    >>> Message(role="user", content="Spell this word backward: sun")
    Message(role='user', content='Spell this word backward: sun')
    """

    role: Literal["system", "user", "assistant"]
    content: str


class Problem(Record):
    """What is asked.

    >>> p = Problem.ask("What is 2 + 2?", id="sum/0", reference="4")
    >>> p.question
    'What is 2 + 2?'
    """

    id: str
    """Unique within its task; the unit over which intervals are clustered."""
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    """The conversation up to and including the question; the last message is the user's."""
    reference: str | None = None
    """The gold answer. Private: it never enters a prompt of the policy."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Whatever the task needs to verify an answer."""

    @model_validator(mode="after")
    def _ends_with_the_user(self) -> Problem:
        if self.messages[-1].role != "user":
            raise ValueError(
                f"the last message must be the user's, but its role is {self.messages[-1].role!r}"
            )
        return self

    @classmethod
    def ask(cls, question: str, *, id: str, reference: str | None = None, **metadata: Any) -> Problem:
        """A problem of one user message."""
        message = Message(role="user", content=question)
        return cls(id=id, messages=(message,), reference=reference, metadata=metadata)

    @property
    def question(self) -> str:
        """The last user message, which a revision prompt repeats."""
        return self.messages[-1].content

    @property
    def question_key(self) -> str:
        """All messages with white space normalised: problems with equal keys ask the same."""
        return "\x1e".join(f"{m.role}\x1f{' '.join(m.content.split())}" for m in self.messages)


class Turn(Record):
    """One sampled answer, exactly as it was sampled.

    >>> t = Turn(prompt_ids=(5, 6), completion_ids=(7, 2), logprobs=(-0.1, -0.2), text="7",
    ...          stop_reason="eos", reward=1.0)
    >>> t.correct
    True
    """

    prompt_ids: Ids
    completion_ids: Ids
    """The sampled ids, the end-of-turn id included when `stop_reason` is "eos"."""
    logprobs: tuple[float, ...] | None
    """log π(token) of each completion id in nats, untempered and untruncated, when it was sampled;
    None for an answer that was given, not sampled."""
    text: str
    """The completion decoded without its end-of-turn token, thoughts included."""
    answer_from: int = 0
    """Where the answer begins in `text`, after the thoughts; its length where they never end. Found in `text`
    if it is not given."""
    stop_reason: StopReason
    reward: float | None = None
    """R(x₀, y), always against the original problem; None where nothing could verify it."""
    correct: bool = False
    """Whether the verifier accepted the answer in full."""

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, data: Any) -> Any:
        if isinstance(data, dict) and "correct" not in data:
            reward = data.get("reward")
            data = {**data, "correct": reward is not None and reward >= 1.0}
        if isinstance(data, dict) and "answer_from" not in data and isinstance(data.get("text"), str):
            start = answer_start(data["text"])
            data = {**data, "answer_from": len(data["text"]) if start is None else start}
        return data

    @property
    def answer(self) -> str:
        """The text after the thoughts: what is verified and criticised, and what later turns see."""
        return answer_text(self.text, self.answer_from)

    @property
    def only_thoughts(self) -> bool:
        """Whether nothing follows the thoughts."""
        return self.answer_from > 0 and not self.answer.strip()

    @model_validator(mode="after")
    def _one_logprob_per_id(self) -> Turn:
        if self.logprobs is not None and len(self.logprobs) != len(self.completion_ids):
            raise ValueError(f"{len(self.logprobs)} log-probs for {len(self.completion_ids)} completion ids")
        return self


class Span(Record):
    """A quoted stretch of an answer that a critique calls good or poor.

    >>> Span(start=4, end=9, quote="words", label="poor").end
    9
    """

    start: Annotated[int, Field(ge=0)]
    """First character, counted in Unicode code points."""
    end: int
    """One past the last character."""
    quote: Annotated[str, Field(min_length=1)]
    """The text at [start, end); mandatory, so that an offset can be verified again."""
    label: Literal["good", "poor"]
    phrase: str | None = None
    """The words of the critique that this span comes from."""

    @model_validator(mode="after")
    def _quote_fits(self) -> Span:
        if self.end - self.start != len(self.quote):
            raise ValueError(
                f"span [{self.start}, {self.end}) is {self.end - self.start} characters long, "
                f"but its quote {self.quote!r} has {len(self.quote)}"
            )
        return self


class Provenance(Record):
    """Author, request and cost of a critique."""

    author: str
    """A person's id, a model's name or a program's name and level, as "reasoning_gym:reveal"."""
    control: str | None = None
    """The experiment control that dealt, altered or made up the critique, as "shuffled"; None without one."""
    prompt_hash: str | None = None
    """sha256 of the request that produced it, for an exact replay."""
    tokens: int = 0
    """Tokens that the author generated, counted apart from the policy's."""
    cost_usd: float = 0.0
    created_at: str | None = None
    """When, in ISO 8601 with an offset; None for what a run writes, which must repeat bit for bit."""

    @property
    def label(self) -> str:
        """The author for tables and pages, after the control if there is one: "shuffled:ann"."""
        return self.author if self.control is None else f"{self.control}:{self.author}"


class Feedback(Record):
    """A critique of one turn.

    A failed request has the status "failed"; the turn is then left out of every baseline and every loss. It
    is never scored 0.

    >>> f = Feedback(text="Character 1 should be n.", source="program", saw_reference=True,
    ...              provenance=Provenance(author="reasoning_gym:reveal"))
    >>> f.ok, f.turn
    (True, 0)
    """

    turn: int = 0
    """Index of the turn that it is about."""
    text: str = ""
    source: FeedbackSourceName
    score: float | None = None
    label: str | None = None
    name: str | None = None
    """What is judged, as "correctness", where one author speaks of several things; None for the answer
    as a whole."""
    spans: tuple[Span, ...] = ()
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    """Why it failed; None when it did not."""
    error_kind: ErrorKind | None = None
    """The kind of failure; None for a success, or a failure of another kind."""
    saw_reference: bool
    """Whether its author saw the private reference."""
    leaks: bool | None = None
    """Whether its text, as the source wrote it, states the answer; None if that was not checked."""
    misleading: bool = False
    """Was it made to be false, by an adversarial control?"""
    provenance: Provenance

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> Feedback:
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("a failed feedback needs an error, and only a failed one has it")
        if self.error_kind is not None and self.error is None:
            raise ValueError("only a failed feedback has an error_kind")
        return self


class Rollout(Record):
    """A problem's turns and their critiques, in order.

    >>> problem = Problem.ask("Spell this word backward: sun", id="spell/0", reference="nus")
    >>> turn = Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=(-0.5,), text="sun",
    ...             stop_reason="eos", reward=0.0)
    >>> r = Rollout(id="3/spell/0/1", group="3/spell/0", problem=problem, turns=(turn,))
    >>> r.feedback_on(0) is None
    True
    """

    id: str
    """Unique within a run: step, problem and sample number."""
    group: str
    """Rollouts of one problem at one step share it; baselines are means over a group."""
    problem: Problem
    turns: Annotated[tuple[Turn, ...], Field(min_length=1)]
    feedback: tuple[Feedback, ...] = ()

    def feedback_on(self, turn: int) -> Feedback | None:
        """The first usable feedback on a turn, or None."""
        return next((f for f in self.feedback if f.turn == turn and f.ok), None)

    def feedback_failed(self, turn: int) -> bool:
        """True if critiques of the turn were requested and all of them failed."""
        about = [f for f in self.feedback if f.turn == turn]
        return bool(about) and not any(f.ok for f in about)

    @property
    def sampled_tokens(self) -> int:
        """Tokens that the policy generated."""
        return sum(len(t.completion_ids) for t in self.turns if t.logprobs is not None)

    @property
    def feedback_tokens(self) -> int:
        """Tokens that model-written feedback cost."""
        return sum(f.provenance.tokens for f in self.feedback)


class Example(Record):
    """One recorded answer and its critiques: a line of a data file."""

    id: str
    """Unique within its file; of a run's answer, rollout and turn as "ROLLOUT#TURN"."""
    problem: Problem
    completion: str
    """The answer's text, exactly as it was given."""
    feedback: tuple[Feedback, ...] = ()
    user: str | None = None
    """Whose conversation it is: a split by user keeps it on one side."""


Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Row:
    """One training sequence. `input_ids[t]` predicts `target_ids[t]`; every field is aligned to targets.

    `weights` is the loss mask with the method's normaliser already in it: 0 on prompt tokens.

    >>> row = Row.from_completion((1, 2, 3), (4, 5), weights=0.5, advantages=-1.0)
    >>> row.input_ids.tolist(), row.target_ids.tolist()
    ([1, 2, 3, 4], [2, 3, 4, 5])
    >>> row.fields["weights"].tolist()
    [0.0, 0.0, 0.5, 0.5]
    """

    input_ids: NDArray[np.int64]
    target_ids: NDArray[np.int64]
    """[T], or [T, K] for soft targets with a "target_probs" field of the same shape."""
    fields: Mapping[str, Floats]

    def __post_init__(self) -> None:
        if "weights" not in self.fields:
            raise ValueError("a Row needs a 'weights' field: the loss mask with its normaliser")
        columns: dict[str, NDArray[Any]] = {"target_ids": self.target_ids, **self.fields}
        for name, value in columns.items():
            if len(value) != len(self.input_ids):
                raise ValueError(f"{name} has {len(value)} entries for {len(self.input_ids)} tokens")

    def __len__(self) -> int:
        return len(self.input_ids)

    @classmethod
    def from_completion(
        cls,
        prompt_ids: Sequence[int],
        completion_ids: Sequence[int],
        **fields: float | Sequence[float] | NDArray[Any],
    ) -> Row:
        """A row that trains C ≥ 1 `completion_ids` after at least one of `prompt_ids`.

        A field has one value for all completion tokens, or C values. Prompt tokens get 0.
        """
        if not prompt_ids or not completion_ids:
            raise ValueError("a row needs at least one prompt token and one completion token")
        ids = np.asarray([*prompt_ids, *completion_ids], dtype=np.int64)
        first = len(prompt_ids) - 1
        aligned: dict[str, Floats] = {}
        for name, value in {"weights": 1.0, **fields}.items():
            column = np.zeros(len(ids) - 1, dtype=np.float32)
            column[first:] = np.broadcast_to(np.asarray(value, np.float32), len(completion_ids))
            aligned[name] = column
        return cls(ids[:-1], ids[1:], aligned)
