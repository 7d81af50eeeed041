"""Messages → token ids. The only module that applies chat templates.

The content of a message is data: a control token that it spells, as "<|im_end|>", is encoded as text. Only
the template adds control tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from didact.errors import UsageError
from didact.rendering.chat_template import DIALOGUE, ChatTemplate
from didact.rendering.special_token_escaping import SafeTokenizer
from didact.thoughts import answer_start, has_tag, opens_thoughts
from didact.types import Ids, Message, Turn

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
        ends = {i for i in (tokenizer.eos_token_id, *end_ids) if i is not None}
        self._template = ChatTemplate(tokenizer, self.template_settings, ends)
        end = self._template.end_id
        if end is None and tokenizer.eos_token_id is None:
            raise UsageError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token and its chat template no end "
                "of turn, so an answer could never end: set `eos_token` in its tokenizer_config.json"
            )
        self.eos_id: int = tokenizer.eos_token_id if end is None else end
        """The id that ends an answer: the template's end of turn, or the tokenizer's eos if it has none."""
        self._ends = {self.eos_id, *ends}
        self._asked = self._template.safe
        self._answered = SafeTokenizer(tokenizer, self._ends)

    def prompt(self, messages: Sequence[Message]) -> Ids:
        """The ids of a conversation, ready for the assistant's reply."""
        chat = [m.model_dump() for m in messages]
        safe = self._asked
        if not any(safe.needed(m["content"]) for m in chat):
            return self._template.ids(chat)
        brackets = safe.brackets(str(self.tokenizer.chat_template), *(m["content"] for m in chat))
        marked = [{**m, "content": safe.marked(m["content"], brackets)} for m in chat]
        ids = safe.encode(self._template.text(marked), brackets)
        return tuple(safe.between_ends(ids) if self.tokenizer.chat_template is None else ids)

    def follow_up(self, content: str, *, ended: bool = True) -> Ids:
        """The ids that a further user message adds after an answer, ready for the assistant's reply.

        The conversation is the prompt's ids, the sampled ids, and these: sampled ids are never encoded again.
        Thoughts are left out of earlier answers by `history`, as templates leave them out.

        Args:
            ended: The answer's ids end with the end-of-turn id. If not, that of the template is added here.

        Raises:
            UsageError: the chat template does not render a second user message.
        """
        safe, template = self._asked, self._template
        if not template.takes(*template.opening, *DIALOGUE):
            raise UsageError(
                f"the chat template of {self.tokenizer.name_or_path!r} leaves out earlier messages of the "
                "assistant, so it cannot render dialogues: take another model or template"
            )
        brackets = safe.brackets(str(self.tokenizer.chat_template), content)
        stand_in = brackets.start + brackets.end  # marked text is never empty
        words = [*template.opening, "a", stand_in, safe.marked(content, brackets)]
        roles = *template.opening, *DIALOGUE
        text = template.text([{"role": r, "content": w} for r, w in zip(roles, words, strict=True)])
        behind = text.rpartition(stand_in)[2]
        if ended and template.closing_text:
            behind = behind.partition(template.closing_text)[2]
        ids = safe.encode(behind, brackets, inside=True)
        if ended and template.closing_id in ids:
            ids = ids[ids.index(template.closing_id) + 1 :]
        return tuple(ids)

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
        """The text of sampled ids, without special tokens and the end of turn, which need not be one."""
        ended = len(ids) > 0 and ids[-1] in self._ends
        return self._decode(ids[:-1] if ended else ids)

    def answer_from(self, ids: Sequence[int], text: str) -> int:
        """The offset in `text`, which the sampled ids decode to, at which the answer begins; see `Turn`."""
        start = answer_start(text, opened=self.opens_thoughts)
        if start == 0 and self._marks_thoughts:  # by special tokens, which are not in the text
            whole = self._decode(ids, special=True)
            start = answer_start(whole, opened=self.opens_thoughts)
            if start:  # the text that the ids before the answer have
                first = bisect_left(
                    range(len(ids)), start, key=lambda n: len(self._decode(ids[:n], special=True))
                )
                start = min(len(text), len(self._decode(ids[:first])))
                start += len(text[start:]) - len(text[start:].lstrip())
        return len(text) if start is None else start

    @cached_property
    def opens_thoughts(self) -> bool:
        """Whether the chat template begins an answer inside of thoughts."""
        return opens_thoughts(self._decode(self.prompt((Message(role="user", content="?"),)), special=True))

    @cached_property
    def _marks_thoughts(self) -> bool:
        return any(has_tag(token) for token in map(str, self.tokenizer.all_special_tokens))

    def history(self, turn: Turn) -> Ids:
        """The prompt and the answer of a turn as the next one sees them: without the answer's thoughts."""
        if not turn.answer_from and not self.opens_thoughts:
            return (*turn.prompt_ids, *turn.completion_ids)
        return (*self.before_thoughts(turn.prompt_ids), *self.past_answer(turn))

    def past_answer(self, turn: Turn) -> Ids:
        """The ids of an answer in the view of later turns: those sampled, or its text after the thoughts."""
        return self.answer(turn.answer) if turn.answer_from or self.opens_thoughts else turn.completion_ids

    def before_thoughts(self, prompt: Ids) -> Ids:
        """A prompt without the tag that opens thoughts at its end."""
        if not self.opens_thoughts:
            return prompt
        n = next(n for n in range(1, len(prompt)) if opens_thoughts(self._decode(prompt[-n:], special=True)))
        return prompt[:-n]

    def _decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        decoded: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return decoded
