"""A generative reward model: a language model that criticises an answer and marks its passages.

One sequence z = [critique; spans], trained on annotated answers (Text2Grad, arXiv:2505.22338):

    L(φ) = −E log p_φ(z | problem, answer)            the loss is on z alone; there is no regression head

formats.py   what z looks like, by frozen names: `json_v1` and, for small models, `lines_v1`
prompts.py   what the model is asked: one builder for training, evaluation and RL
task.py      annotated answers as a task, so that training is an ordinary supervised run
source.py    the trained model as a source of feedback
"""

from didact.reward_model.card import Card, find_model
from didact.reward_model.formats import FORMATS, Format, Reading, Written, make_format
from didact.reward_model.prompts import Prompter
from didact.reward_model.source import Marked, RewardModel
from didact.reward_model.task import AnnotatedTask

__all__ = [
    "FORMATS",
    "AnnotatedTask",
    "Card",
    "Format",
    "Marked",
    "Prompter",
    "Reading",
    "RewardModel",
    "Written",
    "find_model",
    "make_format",
]
