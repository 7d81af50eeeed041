"""`didact inspect`: credits of rows, what a run measures, hostile text, and a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import didact as library
from didact.build import components as setup
from didact.engines.base import Loss
from didact.evaluation.token_trace import TokenTrace, inspect_update, turn_credits
from didact.evaluation.token_view import TokenView, TurnView, rollout_view, to_json, token_cells, write_page
from didact.methods import LossTerm, make_method
from didact.run_dir import RunDir, read_jsonl
from didact.training import loop
from didact.types import Problem, Rollout, Row, Turn
from tests.bigram import critique
from tests.helpers import WordTokenizer, didact
from tests.models import save_model


def rollout(name: str, text: str = "abc") -> Rollout:
    ids = (*map(ord, text), 0)
    turn = Turn(
        prompt_ids=(7,),
        completion_ids=ids,
        logprobs=(-1.0,) * len(ids),
        text=text,
        stop_reason="eos",
        reward=0.0,
    )
    return Rollout(id=name, group="g", problem=Problem.ask("q?", id="q"), turns=(turn,))


def row(of: Rollout, advantages: float | list[float]) -> Row:
    turn = of.turns[0]
    return Row.from_completion(turn.prompt_ids, turn.completion_ids, advantages=advantages)


def test_credits_are_those_of_the_row_that_trained_the_answer() -> None:
    a, b, c = rollout("a"), rollout("b", "xyz"), rollout("c", "xyz")
    rl = LossTerm("rl", Loss("policy_gradient"), [row(a, [1, 0, -1, 0.5]), row(b, 2.0)])
    found = turn_credits([a, b, c], [rl])
    assert found["a", 0] == (1, 0, -1, 0.5)
    assert found["b", 0] is None
    assert found["c", 0] is None
    both = turn_credits([a, b, c], [LossTerm("rl", Loss("policy_gradient"), [row(b, 2.0), row(c, 3.0)])])
    assert (both["b", 0], both["c", 0], both["a", 0]) == ((2.0,) * 4, (3.0,) * 4, (0.0,) * 4)


class Moving:
    level = -1.0

    def logprobs(self, rows):  # type: ignore[no-untyped-def]
        return [np.arange(len(r)) * 0 + self.level for r in rows]


def test_an_update_is_measured_before_and_after_on_answers_spread_over_the_step() -> None:
    engine, all_ = Moving(), [rollout(str(i), "ab" + str(i)) for i in range(6)]

    def update() -> str:
        engine.level = -0.25
        return "done"

    done, found = inspect_update(engine, all_, [], 3, 2, update)  # type: ignore[arg-type]
    assert (done, [r.rollout for r in found]) == ("done", ["0", "3"])
    assert (found[0].before, found[0].after, found[0].step) == ((-1.0,) * 4, (-0.25,) * 4, 3)
    assert inspect_update(engine, all_, [], 3, 0, update) == ("done", [])  # type: ignore[arg-type]


def made_run(path: Path, text: str, quotes: list[tuple[str, str]], says: str) -> RunDir:
    run = RunDir.create(path, "method: text2grad\n", "made by hand")
    one = rollout("0/q/0", text)
    said = critique(text, quotes).model_copy(update={"text": says})
    run.add_rollouts([one.model_copy(update={"feedback": (said,)})], 1)
    n = len(one.turns[0].completion_ids)
    run.add_inspected(
        [
            TokenTrace(
                step=1, rollout="0/q/0", turn=0, credit=(0.5,) * n, before=(-1.0,) * n, after=(-0.75,) * n
            )
        ]
    )
    return run


def test_tokens_have_label_phrase_credit_and_move(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", "ab c", [("a", "good"), ("c", "poor")], "first right, last wrong")
    [turn] = rollout_view(run, "0/q/0", make_method("text2grad"), WordTokenizer())
    assert [token_cells(token) for token in turn.tokens] == [
        ("a", "+1.00", "+0.500", "-1.000", "+0.2500", "first right, last wrong"),
        ("b", "0.00", "+0.500", "-1.000", "+0.2500", ""),
        ("␣", "0.00", "+0.500", "-1.000", "+0.2500", ""),
        ("c", "-1.00", "+0.500", "-1.000", "+0.2500", "first right, last wrong"),
        ("(end)", "0.00", "+0.500", "-1.000", "+0.2500", ""),
    ]
    assert [token["moved"] for token in json.loads(to_json([turn]))[0]["tokens"]] == [0.25] * 5
    # One reward an answer: no labels, the advantage on every token.
    [scalar] = rollout_view(run, "0/q/0", make_method("grpo"), WordTokenizer())
    assert {(token.label, token.credit, token.phrase) for token in scalar.tokens} == {(None, 0.5, None)}


HOSTILE = "\x1b[31m\u202e[red]<script>alert(1)</script>\x07\r\n"


def test_hostile_text_stays_text_in_the_terminal_the_json_and_the_page(tmp_path: Path) -> None:
    token = TokenView(HOSTILE, -1.0, -1.0, -1.0, -2.0, HOSTILE)
    turn = TurnView(HOSTILE, 0, 1, HOSTILE, None, (token,), (HOSTILE,))
    write_page(tmp_path / "page.html", [turn])
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "[red]&lt;script&gt;" in page
    for text in ("".join(token_cells(token)), page, to_json([turn])):
        assert not set("\x1b\u202e\x07\r") & set(text)
    assert "[red]" in token_cells(token)[0]


# ── a whole run ───────────────────────────────────────────────────────────────────────────────────


class Scripted:
    """Calls an answer's first character good, in words that could be markup."""

    def critique(self, requests):  # type: ignore[no-untyped-def]
        found = []
        for request in requests:
            text = request.turn.text
            said = critique(text, [(text[0], "good")] if text else [])
            found.append(said.model_copy(update={"turn": request.index, "text": "[bold]yes\x1b[2J"}))
        return found


def test_a_measured_run_goes_on_bit_for_bit_and_can_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model")
    monkeypatch.setattr(setup, "make_critic", lambda *_, **__: Scripted())
    settings = {
        "settings": {"samples": 2, "kl_coef": 0, "credit": "direct"}, "problems_per_step": 1, "steps": 3,
        "checkpoint_every": 1, "sampling": {"max_tokens": 4}, "eval": {"problems": 0},
        "optim": {"lr": 1e-2}, "inspect": 1,
    }  # fmt: skip

    def train(out: Path) -> Path:
        library.train("text2grad", out=out, model=str(model), task="spell_backward", **settings)
        return out

    whole = train(tmp_path / "whole")
    written = loop.RunDir.add_metrics

    def dies(self: loop.RunDir, record: dict[str, object]) -> None:
        if record["step"] == 2:
            raise RuntimeError("the lights went out")
        written(self, record)

    monkeypatch.setattr(loop.RunDir, "add_metrics", dies)
    with pytest.raises(RuntimeError, match="lights"):
        train(tmp_path / "cut")
    monkeypatch.setattr(loop.RunDir, "add_metrics", written)
    library.resume(tmp_path / "cut")
    for name in ("inspected.jsonl", "metrics.jsonl", "rollouts.jsonl", "result.json"):
        assert (whole / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name

    records = list(read_jsonl(whole / "inspected.jsonl"))
    assert [record["step"] for record in records] == [1, 2, 3]
    assert any(record["before"] != record["after"] for record in records)
    name = records[0]["rollout"]
    assert didact("inspect", whole) == 0
    listed = capsys.readouterr().out
    assert name in listed
    assert "measured" in listed
    assert "labels only" in listed
    assert didact("inspect", whole, "--rollout", name, "--html", tmp_path / "page.html") == 0
    shown = capsys.readouterr().out
    assert "+1.00" in shown
    assert "[bold]yes" in shown
    assert "\x1b[2J" not in shown
    assert didact("inspect", whole, "--rollout", "none") == 2
    assert "lists them" in capsys.readouterr().err
