"""A generative reward model: a language model that criticises an answer and marks its passages.

One sequence z = [critique; spans], trained on annotated answers (Text2Grad, arXiv:2505.22338):

    L(φ) = −E log p_φ(z | problem, answer)            the loss is on z alone; there is no regression head

format.py    what a format of z has to do; `json_v1.py` and, for small models, `lines_v1.py` are the formats
card.py      the settings beside the weights, and the prompts for training, evaluation and RL
task.py      annotated answers as a task, so that training is an ordinary supervised run
source.py    the trained model as a feedback source
"""

from didact.reward_model.card import FORMATS, Card, Prompter, find_model, make_format
from didact.reward_model.format import Format, Reading, Written
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
