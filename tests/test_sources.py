"""Every source of critiques trains through the same door; a judge that dies stops a run and loses nothing."""

from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from didact.build.sources import BuildContext
from didact.cli.terminal import log_to_stderr
from didact.errors import UsageError
from didact.feedback.program import ProgramCritic
from didact.feedback_source import FeedbackRequest
from didact.llm import http
from didact.registry import SOURCES
from didact.run_dir import read_jsonl
from didact.types import Example, Feedback, Problem, Provenance, Turn
from tests.helpers import didact
from tests.judge_server import TRANSIENT, UNUSABLE, JudgeServer, verdict

QUICK = [
    "--set", "task.settings={min_word_len: 3, max_word_len: 5}", "--set", "steps=3",
    "--set", "problems_per_step=4", "--set", "settings.samples=2", "--set", "sampling.max_tokens=8",
    "--set", "eval.problems=4", "--set", "optim.lr=1e-3", "--set", "checkpoint_every=1",
]  # fmt: skip
LOOSE = ["--set", "feedback.max_failed=1"]


def critic(messages: list[dict[str, str]]) -> str:
    """A judge that can spell: it reads question and answer out of its prompt."""
    text = messages[0]["content"]
    (word,) = re.findall(r"-> nus\): (\w+)", text)
    (answer,) = re.findall(r"BEGIN ANSWER \w+\n(.*)\nEND ANSWER", text, re.DOTALL)
    return verdict(ProgramCritic().text(answer, word[::-1]), 2)


def without_task(words: list[str]) -> list[str]:
    """Options without the settings of a task."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for pair in pairs if not pair[1].startswith("task.") for word in pair]


def judged_by(url: str) -> list[str]:
    words = ["train", "rltf-sd", "--task", "spell_backward", "--feedback", "judge:openai"]
    return [*words, "--judge-model", "m", "--base-url", url]


def said(run: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(run / "feedback.jsonl"))


@pytest.mark.parametrize(
    ("spec", "source", "saw"),
    [
        ("program", "program", True),
        ("judge:local", "judge", False),
        ("teacher", "teacher", True),
        ("self", "self", False),
    ],
)
def test_a_source_in_this_process_trains(
    spec: str, source: str, saw: bool, roomy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    more = [] if spec == "program" else ["--set", "feedback.settings.max_tokens=96"]
    words = ["train", "rltf", "--task", "spell_backward", "--feedback", spec, *QUICK, *more]
    if spec == "teacher":
        # It cannot read such a prompt and babbles; cut at a stroke, the babble is a critique all the same.
        words += ["--model", str(roomy), "--set", "feedback.settings.temperature=1"]
        words += ["--set", "feedback.settings.stop=['/']"]
    assert didact(*words, "--out", out) == 0
    found = said(out)
    assert found
    assert {f["source"] for f in found} == {source}
    assert all(f["saw_reference"] is saw for f in found)
    assert spec != "program" or all(f["status"] == "ok" for f in found)
    assert (out / "result.json").exists()


def test_faults_that_pass_cost_no_critique_and_stop_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "FIRST_DELAY", 0.01)
    out = tmp_path / "run"
    with JudgeServer(critic, fault_rate=0.1, faults=TRANSIENT, seed=2) as server:
        assert didact(*judged_by(server.url), *QUICK, "--set", "steps=4", "--out", out) == 0
        faults = sum(server.faulted.values())
    found = said(out)
    assert faults > 0
    assert len(found) >= 8
    assert {f["status"] for f in found} == {"ok"}


def test_a_judge_on_a_server_trains_in_spite_of_faults(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with JudgeServer(critic, fault_rate=0.1, faults=(*TRANSIENT, *UNUSABLE), seed=4) as server:
        code = didact(
            "train", "rltf-sd", "--task", "spell_backward", "--feedback", "judge:openai", "--base-url",
            server.url, *QUICK, *LOOSE, "--set", "steps=6", "--set", "feedback.settings.api_key_env=null",
            "--out", out,
        )  # fmt: skip
        asked, faults = len(server.bodies), sum(server.faulted.values())
    assert code == 0
    found = said(out)
    assert faults > 0
    assert len(found) >= 8
    ok = [f for f in found if f["status"] == "ok"]
    assert len(ok) > len(found) / 2
    assert all(f["score"] is None and f["error"] for f in found if f["status"] != "ok")
    assert (out / "replies").is_dir()
    assert asked >= len(found)


def test_a_compiler_and_unit_tests_train(roomy: Path, tmp_path: Path) -> None:
    out, quick = tmp_path / "run", without_task(QUICK)
    assert didact("train", "rltf", "--task", "code", "--model", roomy, *quick, "--out", out) == 0
    found = said(out)
    assert {f["provenance"]["author"] for f in found} == {"code:reveal"}
    assert all(f["status"] == "ok" and f["text"] for f in found)


def test_people_train_from_a_file(tmp_path: Path) -> None:
    file, out = tmp_path / "fb.jsonl", tmp_path / "run"
    rows = [_criticised(word) for word in ("tin", "cat", "dog", "sun", "pen", "map", "net", "owl")]
    file.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    words = ["train", "rltf", "--offline-data", file, "--feedback", "human", *without_task(QUICK)]
    assert didact(*words, "--out", out) == 0
    found = said(out)
    assert {f["source"] for f in found} == {"human"}
    assert {f["provenance"]["author"] for f in found} == {"ann"}
    firsts = [r["turns"][0] for r in read_jsonl(out / "rollouts.jsonl")]
    assert all(turn["logprobs"] is None for turn in firsts)
    assert {turn["text"] for turn in firsts} <= {row.completion for row in rows}


def _criticised(word: str) -> Example:
    question = f"Spell this word backward (example: sun -> nus): {word}"
    text = ProgramCritic().text(word, word[::-1])
    feedback = Feedback(
        text=text, source="human", saw_reference=False, provenance=Provenance(author="ann"), score=0.0
    )
    problem = Problem.ask(question, id=word, reference=word[::-1])
    return Example(id=word, problem=problem, completion=word, feedback=(feedback,))


MORTAL = """
import os, sys
from tests.helpers import didact
from tests.judge_server import JudgeServer
from tests.test_sources import critic
lives, port = int(sys.argv[1]), int(sys.argv[2])
left = [lives]
def answer(messages):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    return critic(messages)
with JudgeServer(answer, port=port) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def _judge(lives: int, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A judge in a process of its own that dies after `lives` requests, and where it listens."""
    command = [sys.executable, "-c", MORTAL, str(lives), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as judge:
        try:
            assert judge.stdout is not None
            yield judge, judge.stdout.readline().strip()
        finally:
            judge.kill()


def _stopped(judge: subprocess.Popen[str], url: str, out: Path) -> None:
    """Train until the judge is dead and the run has stopped for it."""
    words = [
        "train", "rltf-sd", "--task", "spell_backward", "--feedback", "judge:openai", "--base-url", url,
        *QUICK, "--set", "steps=8", "--set", "eval.problems=0", "--set", "feedback.settings.max_retries=0",
        "--set", "feedback.settings.concurrency=1", "--set", "feedback.settings.api_key_env=null",
    ]  # fmt: skip
    assert didact(*words, "--out", out) == 75
    assert judge.wait(timeout=30) == 9


@pytest.mark.slow
def test_a_judge_that_is_killed_half_way_loses_no_rollout(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with _judge(lives=14) as (dying, url):
        _stopped(dying, url, out)
    rollouts, found = list(read_jsonl(out / "rollouts.jsonl")), said(out)
    steps = max(r["step"] for r in rollouts)
    assert 1 < steps < 8
    assert len(rollouts) == 8 * steps
    failed = [f for f in found if f["status"] == "failed"]
    assert failed
    assert all(f["score"] is None for f in failed)
    metrics = [m for m in read_jsonl(out / "metrics.jsonl") if "eval" not in m]
    assert sum(m["feedback_failed"] for m in metrics) == len(failed)

    with _judge(lives=10**6, port=int(url.split(":")[2].split("/")[0])) as (_, again):
        assert again == url
        assert didact("train", "--resume", out) == 0
    after = list(read_jsonl(out / "rollouts.jsonl"))
    assert after[: len(rollouts)] == rollouts, "what was there stays"
    assert len(after) == 8 * 8
    assert said(out)[: len(found)] == found


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("judge:opnai", {}, "did you mean 'judge:openai'"),
        ("program", {"levl": "hint"}, "did you mean 'level'"),
        ("program", {"level": "all"}, "level = 'all'"),
        ("human", {}, "'path'"),
    ],
)
def test_a_wrong_source_is_named_with_the_nearest_right_one(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        SOURCES.make(name, settings)


def test_budgets_are_for_servers_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert didact("train", "rltf-sd", "--feedback", "teacher", "--max-cost", "1", "--dry-run") == 2
    assert "--max-cost is for --feedback judge:openai" in capsys.readouterr().err


def test_a_dry_run_shows_the_source_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    monkeypatch.chdir(tmp_path)
    assert didact("train", "rltf-sd", "--feedback", "judge:openai", "--judge-model", "m", "--dry-run") == 0
    shown = capsys.readouterr()
    assert "judge:openai" in shown.out
    assert "canary" not in json.dumps([shown.out, shown.err])
    assert not any(tmp_path.iterdir())


CANARY = "canary0123456789/abcdef"  # looks like no key, so that only its own redaction hides it


def outside(home: Path | None = None) -> BuildContext:
    """Where nothing is trained and no model is there."""

    def load(model: str | None) -> Any:
        raise AssertionError(f"{model} is not wanted")

    return BuildContext(load=load, policy=None, task=None, seed=0, home=home)


def about(word: str) -> FeedbackRequest:
    question = f"Spell this word backward (example: sun -> nus): {word}"
    turn = Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=(-1.0,), text=word, stop_reason="eos")
    return FeedbackRequest(Problem.ask(question, id=word, reference=word[::-1]), turn, 0)


def words_in(run: Path) -> str:
    """All that a run wrote, as text."""
    return "\n".join(f.read_bytes().decode("utf-8", "replace") for f in run.rglob("*") if f.is_file())


def test_a_key_that_a_server_repeats_everywhere_is_nowhere_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {CANARY}\n")
    out = tmp_path / "run"
    words = [*QUICK, *LOOSE, "--set", "feedback.settings.api_key_env=JUDGE_KEY"]
    words += ["--set", "feedback.settings.max_retries=0"]

    def telltale(messages: list[dict[str, str]]) -> str:
        return verdict(f"Your key is {CANARY}.", 2)

    with JudgeServer(telltale, key=CANARY, script=["500", "html", "400", None] * 3) as server:
        handler: Any = server._http.RequestHandlerClass
        page = f"<html>{CANARY}".encode()
        handler._broken = lambda self, fault: self.send(200, page, "text/html")
        # 4 where nothing was learned, which is no matter here: the run is whole.
        assert didact(*judged_by(server.url), *words, "--out", out) in (0, 4)
        assert server.headers[0]["authorization"] == f"Bearer {CANARY}"
    found = said(out)
    assert {f["status"] for f in found} == {"ok", "failed"}
    assert any("Your key is [redacted]." in (f["text"] or "") for f in found)
    shown = capsys.readouterr()
    everything = words_in(out) + shown.out + shown.err
    assert "JUDGE_KEY" in everything
    assert "canary" not in everything


@pytest.mark.parametrize(
    "words",
    [
        ["--base-url", f"https://example.com/v1?key={CANARY}"],
        ["--base-url", f"https://{CANARY.replace('/', '')}@example.com/v1"],
        ["--base-url", "https://example.com/v1", "--set", f"feedback.settings.api_key_env={CANARY}"],
        ["--base-url", "http://127.0.0.1:1/v1", "--set", "feedback.settings.api_key_env=canary0123456789"],
        ["--set", "feedback.settings.api_key_env={canary: 1}"],
        ["--base-url", "https://example.com/v1"],
        [],
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_no_server_can_be_asked_with_ends_a_run_before_it_begins(
    words: list[str],
    dry: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    out = tmp_path / "run"
    end = ["--dry-run"] if dry else []
    assert didact("train", "rltf-sd", "--feedback", "judge:openai", *words, "--out", out, *end) == 2
    shown = capsys.readouterr()
    assert "canary" not in shown.out + shown.err
    assert not any(tmp_path.iterdir())


def test_a_budget_is_one_for_a_run_however_often_it_is_resumed(tmp_path: Path) -> None:
    with JudgeServer(critic) as server:
        settings = {"base_url": server.url, "model": "m", "price_in": 1.0, "price_out": 1.0, "max_tokens": 64}
        limited = SOURCES.make("judge:openai", {**settings, "max_requests": 2})
        first = limited.build(outside(tmp_path)).critique([about("tin"), about("cat"), about("dog")])
        again = limited.build(outside(tmp_path)).critique([about("sun"), about("tin")])
        assert len(server.bodies) == 2
        kept = json.loads((tmp_path / "replies" / "budget.json").read_text())
        cheap = SOURCES.make("judge:openai", {**settings, "max_cost": kept["spent_usd"] * 1.01})
        dear = cheap.build(outside(tmp_path)).critique([about("sun")])
        elsewhere = limited.build(outside(tmp_path / "other")).critique([about("sun")])
    assert [f.status for f in first] == ["ok", "ok", "failed"]
    assert [f.status for f in again] == ["failed", "ok"], "a kept reply costs nothing"
    assert elsewhere[0].ok
    for refused in (first[2], again[0], dear[0]):
        assert refused.error_kind == "budget"
    assert kept["requests"] == 2
    assert kept["spent_usd"] == pytest.approx(sum(f.provenance.cost_usd for f in first))


def test_a_limit_in_usd_asks_for_prices_by_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*judged_by("http://127.0.0.1:1/v1"), "--dry-run"]
    assert didact(*words, "--max-cost", "5") == 2
    assert "give --price-in and --price-out, in USD for a million tokens" in capsys.readouterr().err
    assert didact(*words, "--max-cost", "5", "--price-in", "1") == 2
    assert "(--price-in, --price-out) are given together" in capsys.readouterr().err
    assert didact(*words, "--max-cost", "5", "--price-in", "1", "--price-out", "2.5") == 0
    assert "price_out: 2.5" in capsys.readouterr().out
    assert didact("train", "rltf-sd", "--feedback", "self", "--price-in", "1", "--dry-run") == 2
    assert "--price-in is for --feedback judge:openai" in capsys.readouterr().err


DOCS = Path(__file__).parent.parent / "docs" / "feedback.md"


def documented() -> list[str]:
    """The commands of the first code block, one a line."""
    block = DOCS.read_text(encoding="utf-8").split("```")[1]
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("line", documented())
def test_the_documented_commands_work(
    line: str, roomy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.chdir(tmp_path)
    rows = [_criticised(word) for word in ("tin", "cat", "dog", "sun", "pen", "map", "net", "owl")]
    Path("fb.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    named = {"…": "spell_backward", "MODEL": str(roomy), "FOLDER": str(roomy), "NAME": "m"}
    words = [named.get(word, word) for word in shlex.split(line, comments=True)]
    assert words[0] == "didact"
    assert didact(*words[1:], "--dry-run") == 0
    assert [f.name for f in tmp_path.iterdir()] == ["fb.jsonl"]


def test_the_documented_settings_are_all_that_there_are() -> None:
    table = DOCS.read_text(encoding="utf-8")
    for name in ("judge:openai", "judge:local", "teacher", "self"):
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
        for setting in type(SOURCES.make(name, {})).model_fields:
            assert f"`{setting}`" in row, (name, setting)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("self", "--feedback judge:local --judge-model RUN/model"),
        ("teacher", "name the teacher's model with --judge-model"),
    ],
)
def test_without_a_policy_each_source_says_what_to_do(name: str, cure: str) -> None:
    with pytest.raises(UsageError, match=cure) as caught:
        SOURCES.make(name, {}).build(outside())
    assert "model" in type(SOURCES.make(name, {})).model_fields or "name a model" not in str(caught.value)


def test_what_is_logged_is_shown_once_and_as_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    log, before = logging.getLogger("didact"), logging.getLogger("didact").level
    handlers = list(log.handlers)
    try:
        log_to_stderr()
        log_to_stderr()
        log.info("%s holds\n\x1b[31mits replies", "m")
        log.debug("not shown")
        with JudgeServer(critic) as server:
            source = SOURCES.make("judge:openai", {"base_url": server.url, "model": "m"})
            assert source.build(outside()).critique([about("tin")])[0].ok
        lines = capsys.readouterr().err.splitlines()
    finally:
        log.handlers[:] = handlers
        log.setLevel(before)
    assert lines == [
        "didact: m holds its replies",
        f"didact: m at {server.url} enforces a JSON schema",
    ]
