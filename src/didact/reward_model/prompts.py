"""What a reward model is asked: one builder for training, evaluation and RL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from didact.prompts import conversation_text
from didact.reward_model.card import Card
from didact.reward_model.formats import make_format
from didact.types import Message, Problem


class Prompter:
    """Builds prompts that fit, by cutting the problem and never the answer.

    A prompt depends on the card, the tokenizer, the problem and the answer, and on nothing else.

    Args:
        card: Format and limits.
        length: How many tokens a conversation has when it is rendered.
    """

    def __init__(self, card: Card, length: Callable[[Sequence[Message]], int]) -> None:
        self.card = card
        self.format = make_format(card.format)
        self._length = length

    def messages(self, problem: Problem, answer: str) -> tuple[Message, ...] | None:
        """The conversation that asks about an answer, with as much of the problem as fits: its beginning and
        its end, and a notice between them. None where the answer alone leaves no room."""
        limit = self.card.prompt_tokens
        whole = self._asked(problem, answer, None)
        if limit is None or self._length(whole) <= limit:
            return whole
        fits: tuple[Message, ...] | None = None
        low, high = 0, len(conversation_text(problem)) - 1
        while low <= high:
            middle = (low + high) // 2
            tried = self._asked(problem, answer, middle)
            if self._length(tried) <= limit:
                fits, low = tried, middle + 1
            else:
                high = middle - 1
        return fits

    def _asked(self, problem: Problem, answer: str, context: int | None) -> tuple[Message, ...]:
        return self.format.messages(problem, answer, reasoning=self.card.reasoning, context=context)
