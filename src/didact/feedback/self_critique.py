"""Self-critique: the policy judges its own answer, with nothing private to go by.

It is asked with `critique_messages`, the template that the critique's own training uses (RLTF-FM,
RL2F), so that what was learned about critiques is what is asked for later.
"""

from __future__ import annotations

from didact.feedback.model_critic import MAX_CHARS, ModelCritic
from didact.llm.chat import ChatModel


class SelfCritique(ModelCritic):
    """A critique in free text by a model that sees question and answer only.

    Args:
        model: The policy, as a chat model.
        max_chars: A longer answer is cut in the middle, with a notice.
    """

    def __init__(self, model: ChatModel, *, max_chars: int = MAX_CHARS) -> None:
        super().__init__(model, "self", "critique_v1", private=False, max_chars=max_chars)
