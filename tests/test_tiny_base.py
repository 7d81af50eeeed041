"""The bundled model: what it was never shown, what it weighs, and that it loads anywhere."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.build.engines import tiny_model
from didact.rendering.renderer import Renderer
from didact.tasks import make_task

RECIPE = Path(__file__).parent.parent / "recipes" / "tiny_base"
sys.path.insert(0, str(RECIPE))

import examples as recipe  # noqa: E402  # the recipe's own module


def test_no_training_example_holds_a_right_answer_of_the_demo_or_an_evaluation_problem() -> None:
    found = [(e.kind, why) for e in recipe.examples(0, 0, 20_000) if (why := recipe.violation(e))]
    assert found == []


def test_the_scan_would_see_a_right_answer_anywhere() -> None:
    task = make_task(recipe.DEMO[0], recipe.DEMO[1])
    held_out = task.eval_problems(1)[0]
    seen = next(e for e in recipe.examples(0, 0, 5_000) if e.kind == "revise_spell")
    problem = task.train_problem(0)
    right = problem.reference
    assert right is not None
    message = problem.messages[0]
    planted = [
        seen._replace(problem=problem, messages=problem.messages, answer=right),
        seen._replace(
            problem=problem, answer="x",
            messages=(message.model_copy(update={"content": f"{message.content} not {right}"}),),
        ),
        seen._replace(problem=held_out, messages=held_out.messages, answer="x"),
    ]  # fmt: skip
    assert all(recipe.violation(example) for example in planted)


def test_the_examples_are_the_same_on_every_machine() -> None:
    first, again = (list(islice(recipe.examples(5, 0, 50), 50)) for _ in range(2))
    assert first == again
    assert list(recipe.examples(5, 40, 50)) == first[40:]


def test_the_bundled_model_is_small_and_loads_with_plain_transformers() -> None:
    path = tiny_model()
    assert sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) <= 6e6
    assert [f.suffix for f in path.glob("*.safetensors")] == [".safetensors"]
    assert not list(path.glob("*.bin"))
    AutoModelForCausalLM.from_pretrained(path)
    assert AutoTokenizer.from_pretrained(path).chat_template


@pytest.mark.parametrize(
    "text", ["Spell this word backward (example: sun -> nus): ammonia", "naïve 🙂\r\n\ttab", "½ عربي e\u0301"]
)
def test_its_tokenizer_gives_every_text_back(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    assert Renderer(tokenizer).text(tokenizer.encode(text, add_special_tokens=False)) == text


def test_every_letter_of_a_word_is_a_token_of_its_own() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    for word in ("example", "answer", "letter", "sun", "question"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == len(word)


def test_the_gate_that_the_readme_quotes_was_passed() -> None:
    gate = json.loads((RECIPE / "gate.json").read_text())
    assert gate["passed"]
