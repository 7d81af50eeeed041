"""Messages → token ids. The only module that applies chat templates.

The content of a message is data: a control token that it spells, as "<|im_end|>", is encoded as text. Only
the template adds control tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from didact.errors import UsageError
from didact.rendering.special_token_escaping import SafeTokenizer
from didact.types import Ids, Message

_OWN_ARGUMENTS = {
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "max_length",
    "padding", "return_dict", "return_tensors", "tokenize", "truncation",
}  # fmt: skip


class Renderer:
    """Chat messages ⇄ ids for one tokenizer.

    Args:
        tokenizer: A transformers tokenizer. Without a chat template, messages are joined as
            "role: content" lines, so that a base model can be trained too.
        template_settings: Arguments of the chat template, as {"enable_thinking": False}.
        end_ids: Ids that end an answer of the model besides the tokenizer's eos, as Gemma's <end_of_turn>.

    Raises:
        UsageError: the tokenizer cannot end an answer, or there is no template for the settings.
    """

    def __init__(
        self,
        tokenizer: Any,
        template_settings: Mapping[str, Any] | None = None,
        end_ids: Collection[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.template_settings = dict(template_settings or {})
        if self.template_settings and tokenizer.chat_template is None:
            raise UsageError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so model.chat_template "
                "would do nothing: leave it out"
            )
        if taken := sorted(self.template_settings.keys() & _OWN_ARGUMENTS):
            raise UsageError(f"model.chat_template: {taken[0]!r} is set by Didact itself: leave it out")
        if tokenizer.eos_token_id is None:
            raise UsageError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token, so an answer could "
                "never end: set `eos_token` in its tokenizer_config.json"
            )
        self.eos_id: int = tokenizer.eos_token_id
        """The id that ends an answer of a dataset: that of the template if the model can end with it."""
        if tokenizer.chat_template is not None and not set(end_ids) <= {self.eos_id}:
            chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            ids = self._render(chat, add_generation_prompt=False)
            self.eos_id = next((i for i in reversed(ids) if i in end_ids), self.eos_id)
        self._ends = {tokenizer.eos_token_id, self.eos_id, *end_ids}
        self._asked = SafeTokenizer(tokenizer, self._turn_markers())
        self._answered = SafeTokenizer(tokenizer)

    def prompt(self, messages: Sequence[Message]) -> Ids:
        """The ids of a conversation, ready for the assistant's reply."""
        chat = [m.model_dump() for m in messages]
        safe = self._asked
        if not any(safe.needed(m["content"]) for m in chat):
            if self.tokenizer.chat_template is None:
                return tuple(self.tokenizer.encode(self._prompt_text(chat)))
            return self._render(chat, add_generation_prompt=True)
        brackets = safe.brackets(str(self.tokenizer.chat_template), *(m["content"] for m in chat))
        marked = [{**m, "content": safe.marked(m["content"], brackets)} for m in chat]
        ids = safe.encode(self._prompt_text(marked), brackets)
        return tuple(safe.between_ends(ids) if self.tokenizer.chat_template is None else ids)

    def follow_up(self, content: str, *, ended: bool = True) -> Ids:
        """The ids that a further user message adds after an answer, ready for the assistant's reply.

        The conversation is the prompt's ids, the sampled ids, and these: sampled ids are never encoded again.
        Text that a template strips from earlier answers, as Qwen3's does with thinking, stays in context.

        Args:
            content: The user's message, as data.
            ended: The answer's ids end with the end-of-turn id. If not, it is added here.

        Raises:
            UsageError: the chat template does not render a second user message.
        """
        safe = self._asked
        brackets = safe.brackets(str(self.tokenizer.chat_template), content)
        stand_in = brackets.start + brackets.end  # marked text is never empty
        chat = (("user", "a"), ("assistant", stand_in), ("user", safe.marked(content, brackets)))
        text = self._prompt_text([{"role": role, "content": words} for role, words in chat])
        _, found, behind = text.rpartition(stand_in)
        if not found:
            raise UsageError(
                f"the chat template of {self.tokenizer.name_or_path!r} leaves out earlier messages of the "
                "assistant, so it cannot render dialogues: take another model or template"
            )
        ids = safe.encode(behind, brackets)
        return tuple(ids[1:] if ended and ids and ids[0] in self._ends else ids)

    def answer(self, text: str) -> Ids:
        """The ids of an answer from a dataset with its end-of-turn id, for supervised rows.

        Special tokens in it are text. Added tokens that a model may write, as <think>, are tokens.
        """
        safe = self._answered
        if not safe.needed(text):
            return (*self.tokenizer.encode(text, add_special_tokens=False), self.eos_id)
        brackets = safe.brackets(text)
        return (*safe.encode(safe.marked(text, brackets), brackets), self.eos_id)

    def text(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, without special tokens."""
        decoded: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def _prompt_text(self, chat: list[dict[str, Any]]) -> str:
        if self.tokenizer.chat_template is None:
            return "".join(f"{m['role'].capitalize()}: {m['content']}\n" for m in chat) + "Assistant:"
        text: str = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False, **self.template_settings
        )
        return text

    def _turn_markers(self) -> Collection[int]:
        """Ids that the template puts around plain messages."""
        if self.tokenizer.chat_template is None:
            return ()
        chat = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
        try:
            return set(self._render(chat, add_generation_prompt=False))
        except Exception:  # a template may require other roles, and raises its own errors
            return ()

    def _render(self, chat: list[dict[str, Any]], *, add_generation_prompt: bool) -> Ids:
        settings = {**self.template_settings, "add_generation_prompt": add_generation_prompt}
        return tuple(self.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False, **settings))
