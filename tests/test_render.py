"""Prompts: values stay data, a revision is fresh, templates are kept to."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.rollouts.render import (
    CRITIQUE_REQUEST,
    REVISION,
    Renderer,
    critique_messages,
    fill,
    revision_messages,
)
from didact.types import Message, Problem

SYSTEM = Message(role="system", content="Be brief.")
PROBLEM = Problem(id="p", messages=(SYSTEM, Message(role="user", content="2 + 2?")), reference="SECRET")


class CharTokenizer:
    """One id a character; special tokens are ids from 1000 on. Enough of transformers' interface."""

    eos_token_id = 1000
    name_or_path = "char"

    def __init__(self, chat_template="given"):
        self.chat_template = chat_template

    def encode(self, text, add_special_tokens=True):
        ids = [ord(c) for c in text]
        return [1001, *ids] if add_special_tokens else ids

    def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
        assert skip_special_tokens
        assert not clean_up_tokenization_spaces
        return "".join(chr(i) for i in ids if i < 1000)

    def apply_chat_template(self, chat, *, add_generation_prompt, tokenize, return_dict, tail=""):
        assert tokenize
        assert not return_dict
        text = "".join(f"<{m['role']}>{m['content']}" for m in chat)
        if not add_generation_prompt:
            return [*self.encode(text, add_special_tokens=False), 1002, ord("\n")]
        text += "<assistant>" + tail
        return self.encode(text, add_special_tokens=False)


def read(ids):
    return "".join(chr(i) for i in ids if i < 1000)


@given(st.text("{}ab", max_size=20), st.text("{}ab", max_size=20))
def test_fill_keeps_braces_and_slot_names_in_values(first, second):
    assert fill("[{a}|{b}]", a=first, b=second) == f"[{first}|{second}]"


def test_fill_knows_no_backslashes_or_attributes():
    assert fill("{a}", a=r"\1 \g<0> {a.__class__}") == r"\1 \g<0> {a.__class__}"


def test_fill_misses_no_slot_in_silence():
    with pytest.raises(KeyError, match="b"):
        fill("{a}{b}", a="x")


def test_a_revision_is_one_fresh_user_turn_with_question_attempt_and_critique():
    messages = revision_messages(PROBLEM, "five {critique}", "Too much by {one}.")
    assert [m.role for m in messages] == ["system", "user"]
    assert messages[0] == SYSTEM
    content = messages[1].content
    places = [content.index(part) for part in ("2 + 2?", "five {critique}", "Too much by {one}.")]
    assert places == sorted(places)
    assert "SECRET" not in content


def test_the_revision_prompt_holds_its_three_slots_once_and_asks_for_a_fresh_answer():
    assert re.findall(r"\{(\w+)\}", REVISION) == ["question", "attempt", "critique"]
    assert "as if for the first time" in REVISION


def test_a_critique_request_is_the_public_conversation_and_a_request():
    messages = critique_messages(PROBLEM, "five")
    assert [m.role for m in messages] == ["system", "user", "assistant", "user"]
    assert [m.content for m in messages[2:]] == ["five", CRITIQUE_REQUEST]
    assert "SECRET" not in str(messages)


def test_a_chat_template_renders_the_prompt():
    ids = Renderer(CharTokenizer()).prompt(PROBLEM.messages)
    assert read(ids) == "<system>Be brief.<user>2 + 2?<assistant>"
    assert isinstance(ids, tuple)


def test_without_a_chat_template_messages_become_lines():
    ids = Renderer(CharTokenizer(chat_template=None)).prompt(PROBLEM.messages)
    assert read(ids) == "System: Be brief.\nUser: 2 + 2?\nAssistant:"


def test_a_given_answer_ends_with_the_end_of_turn_and_has_no_other_special_token():
    renderer = Renderer(CharTokenizer())
    assert renderer.answer("4") == (ord("4"), 1000)
    assert renderer.text(renderer.answer("  4 .")) == "  4 ."


def test_a_tokenizer_that_cannot_end_an_answer_is_refused():
    tokenizer = CharTokenizer()
    tokenizer.eos_token_id = None
    with pytest.raises(UsageError, match=r"'char' has no eos_token.*set `eos_token`"):
        Renderer(tokenizer)


def test_settings_of_the_chat_template_reach_it():
    ids = Renderer(CharTokenizer(), {"tail": "<think></think>"}).prompt(PROBLEM.messages)
    assert read(ids).endswith("<assistant><think></think>")


def test_settings_that_no_template_reads_are_refused():
    with pytest.raises(UsageError, match="has no chat template"):
        Renderer(CharTokenizer(chat_template=None), {"enable_thinking": False})
    with pytest.raises(UsageError, match="'tokenize' is set by Didact"):
        Renderer(CharTokenizer(), {"tokenize": False})


def test_a_given_answer_ends_with_what_the_template_ends_a_turn_with():
    assert Renderer(CharTokenizer(), end_ids={1000, 1002}).answer("4") == (ord("4"), 1002)
    assert Renderer(CharTokenizer(), end_ids={1000, 1003}).answer("4") == (ord("4"), 1000)
    assert Renderer(CharTokenizer(), end_ids={1000}).answer("4") == (ord("4"), 1000)
