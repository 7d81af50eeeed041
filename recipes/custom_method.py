r"""Your own method, critic and verifier in one file. Both lines train the bundled model alike:

    python custom_method.py runs/objects
    didact train custom_method.py:Revise --task custom_method.py:Backward --feedback \
        custom_method.py:Letters --set sampling.max_tokens=12 --set optim.lr=1e-3 --out runs/named
"""

import random
import sys

import didact


class Backward(didact.BaseTask):
    """Words to spell backward."""

    name = "backward"

    def train_problem(self, index: int) -> didact.Problem:
        word = "".join(random.Random(index).choices("abcdefghilmnoprstuvwy", k=6))
        question = f"Spell this word backward (example: sun -> nus): {word}"
        return didact.Problem.ask(question, id=f"backward/{index}", reference=word[::-1])

    def eval_problems(self, n: int) -> list[didact.Problem]:
        return [self.train_problem(10**9 + i) for i in range(n)]

    def verify(self, problem: didact.Problem, answer: str) -> didact.Verdict:
        right = answer.strip() == problem.reference
        return didact.Verdict(float(right), right)


class Letters:
    """A critic that names every wrong letter."""

    def critique(self, requests: list[didact.FeedbackRequest]) -> list[didact.Feedback]:
        return [r.reply(self.text(r), author="letters", saw_reference=True) for r in requests]

    def text(self, request: didact.FeedbackRequest) -> str:
        want, got = request.problem.reference or "", request.turn.text.strip()
        length = f" It should have {len(want)} characters, not {len(got)}." if len(got) != len(want) else ""
        wrong = [f" Character {i + 1} should be {w}." for i, w in enumerate(want) if got[i : i + 1] != w]
        return "".join(["The answer is wrong.", length, *wrong])


class Revise(didact.Method):
    """g = 1/M Σ ∇ log π(y₁ | x₀) over revisions y₁ that a critique made right, for the plain question x₀."""

    def collect(self, ctx, problems):
        return didact.two_turn(ctx, problems, 2)

    def rows(self, ctx, rollouts):
        right = [r.turns for r in rollouts if r.turns[-1].correct and not r.turns[0].correct]
        row, m = didact.Row.from_completion, len(rollouts)
        rows = [row(y0.prompt_ids, y1.completion_ids, weights=1 / m) for y0, y1 in right]
        return [didact.LossTerm("revision", didact.Loss("cross_entropy"), rows)]


if __name__ == "__main__":
    settings = {"sampling": {"max_tokens": 12}, "optim": {"lr": 1e-3}}
    didact.train(Revise(), task=Backward(), feedback=Letters(), out=sys.argv[1], report=print, **settings)
