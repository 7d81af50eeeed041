"""Reward models as sources of feedback, with the prompts of their training."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Annotated

from pydantic import Field

from didact.build.sources import BuildContext, Source
from didact.config import Positive
from didact.engines.base import Engine, SamplingParams, tokenizer_hash
from didact.errors import UsageError
from didact.feedback_source import FeedbackSource
from didact.llm.cache import ChatCache
from didact.llm.chat import ChatModel
from didact.rendering.renderer import Renderer
from didact.reward_model.model import CARD, Card, Prompter, RewardModel, find_model
from didact.rollouts.engine_chat import EngineChat

LOG = logging.getLogger("didact")


class RewardModelSource(Source):
    """A trained reward model in this process."""

    model: str
    """A run of `didact reward-model train`, or its `model/`."""
    max_tokens: Positive | None = None
    """The longest reply; None is what it was trained with."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    reasoning: bool | None = None
    """A critique comes before the passages; None is what it was trained with."""
    cache: Path | None = None
    """Where replies are kept; None is `replies/` in the run directory."""

    @property
    def files(self) -> tuple[Path, ...]:
        folder = find_model(self.model)
        return (folder / CARD, *sorted(folder.glob("*.safetensors")))

    def build(self, at: BuildContext) -> FeedbackSource:
        folder = find_model(self.model)
        engine, _ = at.load(str(folder))
        card = self.card(Card.read(folder), engine)
        renderer = Renderer(engine.tokenizer, card.chat_template, engine.end_ids)
        cache = self.cache or (None if at.home is None else at.home / "replies")
        chat = reward_chat(engine, renderer, card, temperature=self.temperature, seed=at.seed, cache=cache)
        return RewardModel(chat, make_prompter(card, renderer))

    def card(self, card: Card, engine: Engine) -> Card:
        """The model's card with what these settings change, if prompt and reply together fit the model."""
        if self.reasoning is not None and self.reasoning != card.reasoning:
            LOG.warning(
                "%s was trained with reasoning=%s and is asked with reasoning=%s, which it never saw",
                self.model, str(card.reasoning).lower(), str(self.reasoning).lower(),
            )  # fmt: skip
        given = {"reasoning": self.reasoning, "max_tokens": self.max_tokens}
        changed = card.model_copy(update={key: value for key, value in given.items() if value is not None})
        limit = engine.max_length
        if limit is not None and (card.prompt_tokens or 0) + changed.max_tokens > limit:
            raise UsageError(
                f"feedback.settings.max_tokens = {changed.max_tokens} and prompts of up to "
                f"{card.prompt_tokens} tokens exceed the {limit} of {self.model}: leave max_tokens out"
            )
        return changed


def reward_chat(
    engine: Engine,
    renderer: Renderer,
    card: Card,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    cache: Path | None = None,
) -> ChatModel:
    """A reward model's engine as a chat model whose name identifies its weights, as a cache requires."""
    params = SamplingParams(max_tokens=card.max_tokens, temperature=temperature)
    name = f"reward-model@{model_version(engine)}"
    chat = EngineChat(engine, renderer, name=name, params=params, seed=seed, keep_cut=True)
    return chat if cache is None else ChatCache(chat, cache)


def model_version(engine: Engine) -> str:
    """A short hash of a model's weights and of everything that its tokenizer does to a conversation."""
    whole = engine.model_hash() + tokenizer_hash(engine)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def make_prompter(card: Card, renderer: Renderer) -> Prompter:
    """The builder of a reward model's prompts, which counts their tokens."""
    return Prompter(card, lambda messages: len(renderer.prompt(messages)))
