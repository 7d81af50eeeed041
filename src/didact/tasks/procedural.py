r"""Generated problems as a language model is asked them: the answer in a box.

A model that thinks aloud cannot be scored on its whole text, as reasoning-gym's generators do. It is then
asked for \boxed{}, and what stands in the last one is scored, as in the RLTF paper's code, whose reward is
1[right] + 0.1·(1[boxed] − 1) (`format_penalty` 0.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from didact.errors import UsageError
from didact.tasks.base import Verdict
from didact.tasks.math.answers import boxed
from didact.tasks.reasoning_gym import ReasoningGymTask
from didact.types import Message, Problem

INSTRUCTION = r"Think step by step, and put only the final answer into \boxed{}."


class BoxedProceduralTask(ReasoningGymTask):
    r"""One reasoning-gym generator, asked and scored as its settings say.

    Args:
        name: A registered generator, as "knights_knaves".
        config: Settings of that generator.
        seed: Run seed in [0, 100): which training problems are drawn.
        dense: Give the generator's own partial score as reward.
        boxed: Ask for the answer in a \boxed{} and score what stands in the last one.
        instruction: What follows every question of a boxed task.
        format_penalty: Taken from the reward of an answer without a box, in [0, 1].

    Raises:
        UsageError: an unknown generator or setting, or one out of range.
    """

    critic_name = "puzzle"
    packages = ("reasoning-gym",)

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        dense: bool = False,
        boxed: bool = False,
        instruction: str = INSTRUCTION,
        format_penalty: float = 0.0,
    ) -> None:
        if not 0 <= format_penalty <= 1:
            raise UsageError(f"task {name!r}: format_penalty must lie between 0 and 1, not {format_penalty}")
        self.boxed, self.instruction, self.format_penalty = boxed, instruction.strip(), format_penalty
        super().__init__(name, config, seed=seed, dense=dense)

    def final_answer(self, answer: str) -> str | None:
        """What of a text is scored: all of it, or what stands in its last box; None without one."""
        return boxed(answer) if self.boxed else answer.strip()

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Score one answer; without the box that was asked for it is wrong and pays the penalty."""
        final = self.final_answer(answer)
        if final is None:
            return Verdict(0.0 - self.format_penalty, False)
        return super().verify(self._as_generated(problem), final)

    def _problem(self, data_set: Any, index: int, split: str) -> Problem:
        problem = super()._problem(data_set, index, split)
        if not self.boxed:
            return problem
        asked = Message(role="user", content=f"{problem.question.rstrip()}\n\n{self.instruction}")
        reference = None if problem.reference is None else rf"\boxed{{{problem.reference}}}"
        return problem.model_copy(update={"messages": (asked,), "reference": reference})

    def _as_generated(self, problem: Problem) -> Problem:
        """The problem as the generator knows it, its reference without a box."""
        if not self.boxed or problem.reference is None:
            return problem
        return problem.model_copy(update={"reference": boxed(problem.reference)})
