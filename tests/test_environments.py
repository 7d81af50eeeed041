"""Environments: the built-in games, TextArena's interface, and models that play."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.battery.plasticity import moves
from didact.engines.base import SamplingParams
from didact.environments import ENVIRONMENTS, GuessNumber, GuessWord, Step, make_environment
from didact.environments.episodes import episode_metrics, play
from didact.environments.textarena import TextArena
from didact.errors import DataError, UsageError
from didact.rendering.renderer import Renderer
from tests import arena_stand_in
from tests.helpers import ScriptedEngine, didact


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textarena", arena_stand_in.module())


# ── the built-in games ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
@given(moved=st.lists(st.text(max_size=8), max_size=9), seed=st.integers(0, 50))
def test_a_seed_is_an_episode_and_any_words_are_answered(name: str, moved: list[str], seed: int) -> None:
    def played() -> list[object]:
        game = make_environment(name)
        said: list[object] = [game.reset(seed)]
        for words in moved:
            said.append(Step(*game.step(words)))
            if said[-1].done:  # type: ignore[attr-defined]
                break
        return said

    assert played() == played()


def test_halving_always_finds_a_number() -> None:
    numbers = set()
    for seed in range(40):
        game, low, high = GuessNumber(1, 20, guesses=5), 1, 20
        assert game.reset(seed) == "Guess a number from 1 to 20. You have 5 guesses."
        while True:
            guess = (low + high) // 2
            text, reward, done = game.step(f"I think {guess}.")
            if done:
                break
            assert text == f"It is {'higher' if 'higher' in text else 'lower'} than {guess}. Guess again."
            low, high = (guess + 1, high) if "higher" in text else (low, guess - 1)
        assert (text, reward) == ("That is right.", 1.0)
        numbers.add(guess)
    assert len(numbers) > 10


def test_a_game_ends_with_its_guesses() -> None:
    game = GuessNumber(1, 9, guesses=2)
    game.reset(0)
    assert game.step("what?") == Step("That is no number. Guess again.", 0.0, False)
    text, reward, done = game.step("1000")
    assert (text, reward, done) == ("It is lower than 1000.", 0.0, True)


def test_letters_are_right_elsewhere_or_nowhere_and_no_copy_counts_twice() -> None:
    game = GuessWord(letters=3, alphabet="abc")
    game._secret = "aba"
    assert game._about("aab") == "Character 1 is right. Character 2 is elsewhere. Character 3 is elsewhere."
    assert game._about("bbb") == "Character 1 is nowhere. Character 2 is right. Character 3 is nowhere."
    assert game._about("ab") == "It should have 3 letters, not 2."
    game._left = 2
    assert game.step(" A b\na") == Step("That is right.", 1.0, True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("guess-number", {"low": 3, "high": 3}), ("guess-number", {"guesses": 0}),
        ("guess-word", {"alphabet": "aa"}), ("guess-word", {"letters": 0}),
    ],
)  # fmt: skip
def test_games_that_cannot_be_played_are_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=name):
        make_environment(name, settings)


@pytest.mark.parametrize(
    ("spec", "settings", "named"),
    [
        ("guess-numbr", {}, "did you mean 'guess-number'"),
        ("guess-number", {"gueses": 3}, "did you mean 'guesses'"),
        ("guess-number", {"guesses": "many"}, "guesses = 'many'"),
        ("nothing.py:Game", {}, "there is no file nothing.py"),
        ("json:Game", {}, "'Game' in json"),
        ("json:JSONDecoder", {}, "'reset'"),
        ("json:JSONDecoder", {"size": 3}, "no setting 'size'"),
    ],
)
def test_a_wrong_name_or_setting_is_refused(spec: str, settings: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make_environment(spec, settings)


# ── TextArena ─────────────────────────────────────────────────────────────────────────────────────


def number_of(seed: int) -> int:
    return random.Random(seed).randint(1, 9)


def test_a_textarena_game_says_each_thing_once(arena: None, capsys: pytest.CaptureFixture[str]) -> None:
    game = make_environment("textarena:HighLow-v0")
    assert game.reset(4) == "Guess from 1 to 9."
    first = Step(*game.step("0"))
    assert first.text.startswith("The target number is higher.")
    assert "[0]" not in first.text
    assert (first.reward, first.done) == (0.0, False)
    last = Step(*game.step(f"[{number_of(4)}]"))
    assert last == Step("Congratulations!", 1.0, True)
    assert capsys.readouterr().out == ""


def test_a_textarena_game_that_is_lost_says_why(arena: None) -> None:
    game = TextArena("HighLow-v0")
    game.reset(4)
    game.step("0")
    game.step("0")
    text, reward, done = game.step("0")
    assert text.endswith(f"\nOut of turns: {number_of(4)}.")
    assert (reward, done) == (0.5, True)


def test_textarena_games_do_not_disturb_each_other_or_the_global_generator(arena: None) -> None:
    def alone(seed: int) -> list[str]:
        game = TextArena("HighLow-v0")
        return [game.reset(seed), game.step("0").text, game.step("0").text]

    expected = [alone(1), alone(2)]
    random.seed(99)
    before = random.getstate()
    games = [TextArena("HighLow-v0"), TextArena("HighLow-v0")]
    said = [[game.reset(seed)] for seed, game in enumerate(games, 1)]
    for _ in range(2):
        for words, game in zip(said, games, strict=True):
            words.append(game.step("0").text)
    assert said == expected
    assert random.getstate() == before


def test_what_textarena_cannot_do_is_said(arena: None) -> None:
    with pytest.raises(UsageError, match=r"Hangmn-v0"):
        make_environment("textarena:Hangmn-v0")
    with pytest.raises(UsageError, match=r"nltk\.downloader words") as caught:
        make_environment("textarena:Words-v0")
    assert len(str(caught.value)) < 500
    with pytest.raises(UsageError, match="single-player"):
        TextArena("Duel-v0").reset(0)
    game = TextArena("HighLow-v0", brackets=False)
    game.reset(0)
    assert game.step("5") == Step("The game cannot take that move (AssertionError).", 0.0, True)


def test_without_textarena_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textarena", None)
    with pytest.raises(UsageError, match=r"didact-rl\[games\]"):
        make_environment("textarena:Hangman-v0")


@pytest.mark.filterwarnings("ignore")
def test_the_package_itself_plays_two_games_to_their_end() -> None:
    pytest.importorskip("textarena", reason="the extra `games` is not installed")
    game, low, high = make_environment("textarena:GuessTheNumber-v0"), 1, 20
    assert "between 1 and 20" in game.reset(3)
    step = Step("", 0.0, False)
    while not step.done:
        guess = (low + high) // 2
        step = Step(*game.step(str(guess)))
        low, high = (guess + 1, high) if "higher" in step.text else (low, guess - 1)
    assert step.reward == 1.0
    assert "Congratulations" in step.text
    hanoi = make_environment("textarena:TowerOfHanoi-v0")
    assert "Tower of Hanoi" in hanoi.reset(0)
    for move in ("A C", "A B", "C B", "A C", "B A", "B C", "A C"):
        step = Step(*hanoi.step(move))
    assert (step.reward, step.done) == (1.0, True)


# ── a model plays ─────────────────────────────────────────────────────────────────────────────────


def halving(prompt: str, j: int) -> str:
    low, high = 1, 20
    for line in prompt.splitlines():
        words = line.removeprefix("User: ").split()
        if words[:2] == ["It", "is"]:
            number = int(words[4].rstrip("."))
            low, high = (number + 1, high) if words[2] == "higher" else (low, number - 1)
    return str((low + high) // 2)


def episodes(answer=halving, n=6, **settings):  # type: ignore[no-untyped-def]
    engine = ScriptedEngine(answer)
    engine.max_length = settings.pop("max_length", None)
    values = {"name": "guess-number", "sampling": SamplingParams(max_tokens=4), "turns": 6, **settings}
    make = values.pop("make", GuessNumber)
    return play(engine, Renderer(engine.tokenizer), make, range(n), **values), engine  # type: ignore[arg-type]


def test_an_episode_is_one_growing_conversation() -> None:
    found, engine = episodes()
    assert all(e.solved and e.ending == "over" for e in found)
    longest = max(found, key=lambda e: len(e.rollout.turns)).rollout
    for h, turn in enumerate(longest.turns[1:], 1):
        before = engine.tokenizer.decode(longest.turns[h - 1].prompt_ids)
        said = longest.feedback[h - 1].text
        expected = f"{before} {longest.turns[h - 1].text}\nUser: {said}\nAssistant:"
        assert engine.tokenizer.decode(turn.prompt_ids) == expected
    assert [t.correct for t in longest.turns] == [False] * (len(longest.turns) - 1) + [True]
    assert longest.id == longest.problem.id
    assert longest.feedback[-1].text == "That is right."
    assert all(m.problem == longest.id for m in moves([longest]))


def test_an_episode_ends_with_its_turns_or_its_room() -> None:
    found, _ = episodes(lambda text, j: "1", n=8, turns=2)
    assert {e.ending for e in found if not e.solved} == {"turns"}
    assert {len(e.rollout.turns) for e in found if not e.solved} == {2}
    first = len("User: Guess a number from 1 to 20. You have 6 guesses.\nAssistant:")
    found, _ = episodes(lambda text, j: "0", n=2, max_length=first + 4)
    assert [(e.ending, len(e.rollout.turns), e.total) for e in found] == [("room", 1, 0.0)] * 2
    with pytest.raises(DataError, match="no room"):
        episodes(n=1, max_length=first + 3)


def test_an_environment_of_ones_own_is_played_and_held_to_the_protocol(tmp_path: Path) -> None:
    file = tmp_path / "world.py"
    file.write_text(
        "class World:\n"
        "    def __init__(self, answer='yes'):\n        self.answer = answer\n"
        "    def reset(self, seed):\n        return 'Well?'\n"
        "    def step(self, text):\n"
        "        return ('Good.', 1, True) if text == self.answer else 'No.'\n"
    )
    spec = f"{file}:World"
    found, _ = episodes(lambda text, j: "yes", n=1, make=lambda: make_environment(spec))
    assert found[0].solved
    with pytest.raises(DataError, match=r"\(text, reward, done\)"):
        episodes(lambda text, j: "yes", n=1, make=lambda: make_environment(spec, {"answer": "no"}))


def test_metrics_of_known_episodes() -> None:
    found, _ = episodes(lambda text, j: "7", n=30, turns=1)
    solved = sum(e.solved for e in found)
    assert 0 < solved < 30
    values = episode_metrics(found)
    assert values["solved"] == values["return"] == solved / 30
    assert values["solved_ci95"][0] < solved / 30 < values["solved_ci95"][1]
    assert values["endings"] == {"turns": 30 - solved, "over": solved}
    assert values["solved_by_turn"][-1]["solved"] == solved / 30
    late, _ = episodes(n=6)
    curve = [p["solved"] for p in episode_metrics(late)["solved_by_turn"]]
    assert curve == sorted(curve)
    assert curve[-1] == 1.0
    assert episode_metrics(late[:1])["return_ci95"] is None


def test_the_command_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, lines = tmp_path / "n.json", tmp_path / "t.jsonl"
    code = didact(
        "eval", "tiny", "--env", "guess-word", "--setting", "letters=2", "--n", 3,
        "--first", 5, "--turns", 2, "--max-tokens", 6, "--json", numbers, "--transcripts", lines,
    )  # fmt: skip
    assert code == 0
    assert "of 3 episodes" in capsys.readouterr().out
    written = json.loads(numbers.read_text())
    assert (written["n"], written["environment"], written["settings"]) == (3, "guess-word", {"letters": 2})
    transcripts = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [t["id"] for t in transcripts] == ["guess-word/5", "guess-word/6", "guess-word/7"]
    assert transcripts[0]["turns"][0]["text"] != "" or transcripts[0]["feedback"]


def test_a_wrong_environment_is_refused_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert didact("eval", "nowhere", "--env", "guess-numbr") == 2
    assert "guess-number" in capsys.readouterr().err
    assert didact("eval", "nowhere", "--env", "guess-number", "--setting", "x") == 2
    assert "key=value" in capsys.readouterr().err
