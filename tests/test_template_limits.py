"""A chat template that never ends does not keep a run from being refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from didact.errors import UsageError
from didact.rendering import chat_template, template_limits
from didact.rendering.renderer import Renderer
from didact.rendering.template_limits import ends
from tests.helpers import didact
from tests.models import CHAT_TEMPLATE, byte_tokenizer, save_model

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% set n = namespace(x='a') %}{% for i in range(99999) %}{% set n.x = n.x ~ n.x ~ 'b' %}{% endfor %}"
ENDLESS = {
    "loops in loops": LOOPS,
    "a loop for one role": f"{{% if messages[0].role == 'system' %}}{LOOPS}{{% endif %}}",
    "a loop in dialogues": f"{{% if messages|length > 2 %}}{LOOPS}{{% endif %}}",
    "a power of powers": "{{ 9**(9**9) }}",
    "a text that grows": GROWS,
    "a text of 10¹¹ characters": "{{ 'a' * 10**11 }}",
    "a wide field": "{{ '%1000000000000d' % 3 }}",
}
REFUSED = {
    "a range of 10¹²": "{% for i in range(10**12) %}x{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "no statement": "{% for m in %}",
    "not closed": "{{ ",
    "an unknown name": "{{ nothing.at.all }}",
    "an unknown tag": "{% nothing %}",
}


@pytest.fixture(autouse=True)
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "CPU_SECONDS", 1)
    monkeypatch.setattr(chat_template, "_ENDS", {})


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_that_does_not_end_is_refused(kind: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = ENDLESS[kind] + CHAT_TEMPLATE
    for _ in range(2):
        with pytest.raises(UsageError, match=r"chat template .* end"):
            Renderer(tokenizer)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_template_that_cannot_be_rendered_is_refused(kind: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = REFUSED[kind] + CHAT_TEMPLATE
    with pytest.raises(UsageError, match="chat template"):
        Renderer(tokenizer)


def test_a_template_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(chat_template, "ends", lambda work: tried.append(work) or True)
    for _ in range(3):
        Renderer(byte_tokenizer())
    assert len(tried) == 1


def test_other_settings_of_a_template_are_tried_too() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = f"{{% if slow %}}{LOOPS}{{% endif %}}{CHAT_TEMPLATE}"
    Renderer(tokenizer)
    with pytest.raises(UsageError, match="chat template"):
        Renderer(tokenizer, {"slow": True})


def test_work_that_ends_is_told_from_work_that_is_ended() -> None:
    assert ends(lambda: None)
    assert ends(lambda: 1 / 0)
    assert not ends(lambda: bytearray(10**15))
    assert ends(lambda: os.kill(os.getpid(), signal.SIGTERM))  # decides nothing


def test_work_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    children: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: children.append(fork()) or children[-1])
    assert ends(lambda: done.append(1))
    assert not done
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)


@pytest.mark.parametrize("template", ["loops in loops", "no statement"])
@pytest.mark.parametrize(
    "command", [["train", "grpo"], ["train", "sft", "--dry-run"], ["eval"]], ids=" ".join
)
def test_commands_refuse_such_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], template: str
) -> None:
    folder = save_model(tmp_path / "model")
    source = (ENDLESS | REFUSED)[template] + CHAT_TEMPLATE
    (folder / "chat_template.jinja").write_text(source)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**written, "chat_template": source}))
    named = [folder] if command[0] == "eval" else ["--model", folder, "--out", tmp_path / "run"]
    assert didact(*command, *named) == 2
    shown = capsys.readouterr().err
    assert str(folder) in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()
