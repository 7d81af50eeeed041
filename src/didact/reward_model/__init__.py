"""A generative reward model: a language model that criticises an answer and marks its passages.

One sequence z = [critique; spans], trained on annotated answers (Text2Grad, arXiv:2505.22338):

    L(φ) = −E log p_φ(z | problem, answer)            the loss is on z alone; there is no regression head

formats.py   the formats of z: `json_v1` and, for small models, `lines_v1`
model.py     the settings beside the weights, the prompts for training, evaluation and RL, the feedback source
task.py      annotated answers as a task, so that training is an ordinary supervised run
"""
