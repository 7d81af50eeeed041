"""What a tokenizer's chat template takes, and what it ends a turn with, found by rendering marked words.

Templates refuse system messages or roles that do not alternate, want contents as lists of parts, name the
assistant otherwise, or leave messages out in silence. For each sequence of roles, forms of the same
conversation are rendered until every word of every message stands in the text; nothing depends on a model's
name. Without a template, messages are "Role: content" lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import cache, lru_cache
from itertools import compress, product
from typing import Any, NamedTuple, TypeAlias

from didact.errors import DataError, DidactError, UsageError
from didact.rendering.special_token_escaping import SafeTokenizer
from didact.rendering.template_limits import BYTES, CPU_SECONDS, ends
from didact.types import Ids

Chat: TypeAlias = Sequence[Mapping[str, Any]]
"""Messages as {"role": …, "content": a text}."""
TODAY = date(2024, 7, 26)
"""The date for templates that write today's, so that a resumed run has the prompts of the run before."""
WORDS = "Ab \"c\" & <d> 'e' {f} {{ g }} \\h é\n    1  2, 3.\n" * 100
"""Content of a probe. A template that escapes, shortens or lower-cases content does not render it."""
OPENINGS = (), ("system",)
"""Roles before the first user message: some templates require a system message."""
DIALOGUE = "user", "assistant", "user"
MARK = "Zq7x"
"""Content of messages around which a template's own words are read."""
USER_NAMES, ASSISTANT_NAMES = ("user", "human"), ("assistant", "model", "gpt", "bot")

_ENDS: dict[str, bool] = {}
"""Whether templates end, by source and settings."""


class ChatForm(NamedTuple):
    """A form in which a template takes conversations of some roles."""

    systems: float
    """How many system messages are kept, all at the beginning; others are the user's. NaN: not folded."""
    parts: tuple[str, ...]
    """Roles whose content is [{"type": "text", "text": …}]."""
    user: str
    assistant: str

    def of(self, chat: Chat) -> list[dict[str, Any]]:
        """The conversation in this form. If folded, neighbours of one role are joined by a blank line."""
        said: list[tuple[str, str]] = []
        for place, m in enumerate(chat):
            role = "user" if m["role"] == "system" and place >= self.systems else m["role"]
            join = bool(said) and said[-1][0] == role and not math.isnan(self.systems)
            texts = (said.pop()[1], m["content"]) if join else (m["content"],)
            said.append((role, "\n\n".join(filter(None, texts))))
        return [
            {
                "role": getattr(self, role, role),
                "content": [{"type": "text", "text": text}] if role in self.parts else text,
            }
            for role, text in said
        ]


class ChatTemplate:
    """Renders conversations of any roles in the form that a tokenizer's template takes.

    Args:
        settings: Arguments of the template.
        end_ids: Ids that end an answer of the model.

    Attributes:
        safe: Knows the tokenizer's control tokens, those that the template puts around messages included.
        opening: Roles that the template requires before the first user message; most require none.
        end_id: The control token that ends the last message of an assistant; None if it ends without one.
        closing_id: The one that ends an earlier message, which is almost always the same.
        closing_text: What ends a message of an assistant without a control token.

    Raises:
        UsageError: the template renders no message of the user.
    """

    def __init__(self, tokenizer: Any, settings: Mapping[str, Any], end_ids: Collection[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.source = getattr(tokenizer, "chat_template", None)
        self._name = f"the chat template of {getattr(tokenizer, 'name_or_path', '')!r}"
        dated = isinstance(self.source, str) and "strftime_now" in self.source
        self._settings = {**settings, **({"chat_template": _dated(str(self.source))} if dated else {})}
        self._form = cache(self._find_form)
        self._refuse_endless()
        plain, *others = (self._form(*opening, "user") for opening in OPENINGS)
        if isinstance(plain, str) and all(isinstance(form, str) for form in others):
            raise UsageError(
                f"{plain}: give the model's folder a chat_template that renders user and assistant messages"
            )
        self.opening = next((o for o in OPENINGS if self.takes(*o, *DIALOGUE)), ())
        dialogue, start = self._around(*DIALOGUE), self._around("user")
        # Not what the template begins a reply with, which may be empty thoughts.
        written = "" if self.source is None else " ".join((*dialogue[:-1], *start[:-1]))
        self.safe = SafeTokenizer(tokenizer, tokenizer.encode(written, add_special_tokens=False))
        around = dialogue[-2], self._around("user", "assistant")[-1], start[-2], start[-1]
        gap, last, before, asks = map(self._controls, around)
        if gap:  # some templates always begin a further reply
            last = [i for i in last if i in gap or i not in asks]
        # A single control token that also stands before the first message opens the next one. Some models
        # end their answers with it.
        closes = gap != before[-1:] or not {*last, *end_ids}.isdisjoint(gap)
        self.closing_id = gap[0] if gap and closes else None
        self.end_id = last[0] if last else self.closing_id
        closing = around[1].strip()
        self.closing_text = closing if not last and closing in around[0] else ""

    def _refuse_endless(self) -> None:
        """Raise a UsageError if the template does not end with conversations of the usual roles."""
        key = f"{self.source} {self._settings}"
        if self.source is not None and key not in _ENDS:
            probes = [(*opening, *DIALOGUE[:n]) for opening in OPENINGS for n in (1, 2, 3)]
            _ENDS[key] = ends(lambda: [self._find_form(*roles) for roles in probes])
        if not _ENDS.get(key, True):
            raise UsageError(
                f"{self._name} does not end within {CPU_SECONDS} s and {BYTES / 2**30:g} GiB: give the "
                "model's folder another chat_template"
            )

    def takes(self, *roles: str) -> bool:
        """Whether the template renders all words of a conversation of these roles, in some form."""
        return isinstance(self._form(*roles), ChatForm)

    def text(self, chat: Chat) -> str:
        """The conversation as text, ready for the assistant's reply unless it ends with one.

        Raises:
            DataError: the template renders no such conversation.
        """
        roles = [m["role"] for m in chat]
        form = self._form(*roles)
        if isinstance(form, str):
            raise DataError(
                f"{form}, in a conversation of {', '.join(roles)}: begin with the user, alternate user and "
                "assistant, or give the model's folder another chat_template"
            )
        return self._apply(form.of(chat))

    def ids(self, chat: Chat) -> Ids:
        """The conversation as ids; otherwise as `text`."""
        return tuple(self.tokenizer.encode(self.text(chat), add_special_tokens=self.source is None))

    def _find_form(self, *roles: str) -> ChatForm | str:
        """The form for these roles that changes least, or why there is none."""
        probe = [{"role": role, "content": f"A{n} {WORDS}{n}Z"} for n, role in enumerate(roles)]
        used, problems = sorted(set(roles)), []
        choices = product((False, True), repeat=len(used))
        known = {"user", "assistant", *re.findall(r"['\"](\w+)['\"]", str(self.source))}
        names = [pair for pair in product(USER_NAMES, ASSISTANT_NAMES) if known.issuperset(pair)]
        for systems, choice, pair in product((math.nan, math.inf, 1, 0), choices, names):
            form = ChatForm(systems, tuple(compress(used, choice)), *pair)
            try:
                text = self._apply(form.of(probe))
            except DataError as error:
                problems.append(str(error))
                continue
            missing = [m["role"] for m in probe if m["content"] not in text]
            if not missing:
                return form
            problems.append(f"{self._name} leaves out or changes the words of the role {missing[0]}")
        return problems[0]

    def _around(self, *roles: str) -> list[str]:
        """What the template writes before, between and after messages of these roles, if it takes them."""
        if not self.takes(*self.opening, *roles):
            return ["", ""]
        chat = [{"role": role, "content": MARK} for role in (*self.opening, *roles)]
        return self.text(chat).split(MARK)

    def _controls(self, text: str) -> list[int]:
        return [i for i in self.tokenizer.encode(text, add_special_tokens=False) if i in self.safe.ids]

    def _apply(self, chat: list[dict[str, Any]]) -> str:
        ask = chat[-1]["role"] in ("system", *USER_NAMES)
        if self.source is None:
            return "".join(f"{m['role'].capitalize()}: {m['content']}\n" for m in chat) + "Assistant:" * ask
        settings = {**self._settings, "add_generation_prompt": ask, "tokenize": False}
        try:
            return str(self.tokenizer.apply_chat_template(chat, **settings))
        except (DidactError, MemoryError):
            raise
        except Exception as error:  # a template raises whatever its author or jinja chose
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(f"{self._name} refuses the messages: {reason}") from None


def _dated(source: str) -> str:
    """The template with TODAY in place of the clock's date."""
    codes = {f"%{code}": TODAY.strftime(f"%{code}") for code in (*"aAbBcdeFGHIjmMpSTuUVwWxXyY", "-d", "-m")}
    shown = "".join(f" | replace({code!r}, {text!r})" for code, text in codes.items())
    return f"{{% macro strftime_now(format) %}}{{{{ format{shown} }}}}{{% endmacro %}}{{{{ '' }}}}{source}"


@lru_cache(maxsize=8)
def end_of_turn(tokenizer: Any, source: str) -> int | None:
    """The id that the tokenizer's template, `source`, ends answers with; None where it has no such id."""
    try:
        return ChatTemplate(tokenizer, {}).end_id
    except (DataError, UsageError):  # such a template is refused where messages are rendered
        return None
