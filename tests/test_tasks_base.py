"""A task needs four members; all that a run asks beyond them has a default."""

from didact.tasks.base import BaseTask, PolicyLimits, Verdict, as_base_task
from didact.types import Message, Problem


def problem(index):
    return Problem(id=f"p{index}", messages=(Message(role="user", content="?"),), reference="x")


class Foreign:
    """The four members, and nothing of the project inherited."""

    name = "foreign"

    def train_problem(self, index):
        return problem(index)

    def eval_problems(self, n):
        return [problem(-1 - i) for i in range(n)]

    def verify(self, problem, answer):
        return Verdict(float(answer == "x"), answer == "x")


def test_four_members_are_a_whole_task():
    task = as_base_task(Foreign())
    assert (task.name, task.train_problem(3).id, len(task.eval_problems(2))) == ("foreign", "p3", 2)
    verdicts = task.verify_many([(problem(0), "x"), (problem(0), "y")])
    assert [v.correct for v in verdicts] == [True, False]
    assert (task.needs_judge, task.judge, task.offline, task.files) == (False, None, None, ())
    assert task.all_train_problems() is None
    assert task.all_problems() is None
    assert list(task.families()) == ["foreign"]
    assert (task.critic_name, task.critic_uses_reference) == ("reference", True)
    task.bind_policy(PolicyLimits(len, len, None, 1, {}))


def test_hooks_of_a_foreign_task_are_used():
    class Finite(Foreign):
        critic_name = "mine"
        extra = "kept"

        def all_train_problems(self):
            return [problem(0)]

        def verify_many(self, asked):
            return [Verdict(0.5, False) for _ in asked]

    task = as_base_task(Finite())
    assert [p.id for p in task.all_train_problems()] == ["p0"]
    assert (task.critic_name, task.extra) == ("mine", "kept")
    assert as_base_task(Finite()).verify_many([(problem(0), "x")]) == [Verdict(0.5, False)]


def test_a_task_with_the_base_class_is_left_as_it_is():
    class Own(BaseTask, Foreign):
        pass

    task = Own()
    assert as_base_task(task) is task
