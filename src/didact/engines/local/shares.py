"""What passes between process 0 and the others: rows, samples and settings, and the tasks done with them.

Rows and samples travel as a few long arrays, since thousands of short ones would cost more than they hold.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.engines.base import AdamParams, Loss, LossFn, Sample, SamplingParams, ValueHeadSettings, Weights
from didact.engines.local.loading import LoraSettings
from didact.engines.local.part import Part
from didact.engines.local.processes import Message
from didact.engines.local.sharding import use_launcher_settings
from didact.engines.local.training import resolve_loss
from didact.errors import CapabilityError
from didact.types import Row

Array = NDArray[Any]
Task = Callable[[Part, Message], Message]


def deal(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Deal items of these sizes to processes so that all have about equally many, and equally much to do.

    >>> deal([5, 1, 4, 2, 3], 2)
    [[0, 1, 3], [2, 4]]
    """
    largest_first = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    there_and_back = [*range(hands), *reversed(range(hands))]
    dealt: list[list[int]] = [[] for _ in range(hands)]
    for turn, i in enumerate(largest_first):
        dealt[there_and_back[turn % len(there_and_back)]].append(i)
    return [sorted(hand) for hand in dealt]


def gathered(hands: Sequence[Sequence[int]], shares: Sequence[Sequence[Any]]) -> list[Any]:
    """What was made of dealt items, in the items' order."""
    made = {
        i: item
        for hand, share in zip(hands, shares, strict=True)
        for i, item in zip(hand, share, strict=True)
    }
    return [made[i] for i in range(len(made))]


def pack(items: Sequence[Array], like: Array) -> dict[str, Array]:
    """Arrays that differ in length as one; `like` gives dtype and further dimensions where there are none."""
    joined = np.concatenate(items) if items else like[:0]
    return {"lengths": np.asarray([len(item) for item in items], np.int64), "values": joined}


def unpack(arrays: Mapping[str, Array], name: str = "") -> list[Array]:
    """The arrays that `pack` joined."""
    if not len(arrays[f"{name}lengths"]):
        return []
    return np.split(arrays[f"{name}values"], np.cumsum(arrays[f"{name}lengths"])[:-1])


def rows_to_arrays(rows: Sequence[Row], like: Row) -> dict[str, Array]:
    """Rows with the fields of `like`."""
    columns: dict[str, list[Array]] = {
        "input_ids": [row.input_ids for row in rows],
        "target_ids": [row.target_ids for row in rows],
        **{f"field.{name}": [np.asarray(r.fields[name], np.float32) for r in rows] for name in like.fields},
    }
    first = {"input_ids": like.input_ids, "target_ids": like.target_ids}
    first |= {f"field.{name}": np.asarray(column, np.float32) for name, column in like.fields.items()}
    return {
        f"{name}/{key}": array
        for name, column in columns.items()
        for key, array in pack(column, first[name]).items()
    }


def rows_from_arrays(arrays: Mapping[str, Array]) -> tuple[list[Row], Row]:
    """The rows, and one token that counts nowhere with the same fields."""
    names = sorted({name.partition("/")[0] for name in arrays})
    columns = {name: unpack(arrays, f"{name}/") for name in names}
    fields = [name for name in names if name.startswith("field.")]

    def row(ids: Array, targets: Array, values: Sequence[Array]) -> Row:
        own = {name.removeprefix("field."): v for name, v in zip(fields, values, strict=True)}
        return Row(ids, targets, own)

    rows = [
        row(columns["input_ids"][i], columns["target_ids"][i], [columns[name][i] for name in fields])
        for i in range(len(columns["input_ids"]))
    ]
    one = {n: np.zeros((1, *arrays[f"{n}/values"].shape[1:]), arrays[f"{n}/values"].dtype) for n in names}
    return rows, row(one["input_ids"], one["target_ids"], [one[name] for name in fields])


def loss_to_json(loss: Loss) -> dict[str, Any]:
    """A loss by its name, or by the place where its function can be imported.

    Raises:
        CapabilityError: its function has no such place.
    """
    place = None
    if loss.fn is not None:
        place = [getattr(loss.fn, "__module__", None), getattr(loss.fn, "__qualname__", None)]
        if place[0] in (None, "__main__") or _function(place, None) is not loss.fn:
            raise CapabilityError(
                f"loss {loss.name!r} is a function that other processes cannot import: define it at the top "
                "level of a module, or train in one process"
            )
    return {"name": loss.name, "settings": dict(loss.settings), "fn": place}


def loss_from_json(told: Mapping[str, Any]) -> Loss:
    """The loss that `loss_to_json` told."""
    return Loss(told["name"], told["settings"], None if told["fn"] is None else _function(told["fn"]))


def _function(place: Sequence[Any], *default: Any) -> LossFn:
    found = importlib.import_module(place[0])
    for name in place[1].split("."):
        found = getattr(found, name, *default)
    return found  # type: ignore[return-value]


# ── tasks ─────────────────────────────────────────────────────────────────────────────────────────


def settings_to_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `LocalEngine.from_pretrained`, with dataclasses as mappings."""
    return {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in settings.items()}  # type: ignore[arg-type]


def make_part(header: Mapping[str, Any]) -> Part:
    """This process's part of a new engine."""
    use_launcher_settings(header["launcher"])
    settings = dict(header["settings"])
    for name, kind in (("lora", LoraSettings), ("critic", ValueHeadSettings)):
        if settings.get(name) is not None:
            settings[name] = kind(**settings[name])
    return Part.from_pretrained(header["path"], **settings)


def _sample(part: Part, message: Message) -> Message:
    header = message.header
    params = SamplingParams(**{**header["params"], "stop": tuple(header["params"]["stop"])})
    prompts = [tuple(ids.tolist()) for ids in unpack(message.arrays)]
    drawn = [(seed, number) for seed, number in header["streams"]]
    found = part._sample(prompts, header["n"], params, drawn, Weights(header["weights"]))
    samples = [sample for each in found for sample in each]
    ids = pack([np.asarray(s.ids, np.int64) for s in samples], np.zeros(0, np.int64))
    logprobs = [np.asarray(s.logprobs, np.float64) for s in samples]
    ids["logprobs"] = np.concatenate(logprobs) if logprobs else np.zeros(0)
    return Message({"reasons": [s.stop_reason for s in samples]}, ids)


def samples_from(answer: Message, n: int) -> list[list[Sample]]:
    """The samples of a process's prompts, n of each."""
    logprobs = unpack({"lengths": answer.arrays["lengths"], "values": answer.arrays["logprobs"]})
    parts = zip(unpack(answer.arrays), logprobs, answer.header["reasons"], strict=True)
    samples = [Sample(tuple(ids.tolist()), tuple(lp.tolist()), reason) for ids, lp, reason in parts]
    return [samples[i : i + n] for i in range(0, len(samples), n)]


def _score(part: Part, message: Message) -> Message:
    rows, part.idle = rows_from_arrays(message.arrays)
    match message.header["what"]:
        case "logprobs":
            found = part.logprobs(rows, weights=Weights(message.header["weights"]))
        case "values":
            found = part.values(rows)
        case _:
            found = part.full_kl(rows)
    targets = part.idle.target_ids if message.header["what"] == "logprobs" else np.zeros(0)
    return Message({}, pack(found, targets.astype(np.float32)))


def _train(part: Part, message: Message) -> Message:
    rows, part.idle = rows_from_arrays(message.arrays)
    loss = loss_from_json(message.header["loss"])
    return Message(part._train(rows, resolve_loss(loss, part.idle.fields), loss.settings)._asdict())


def _optim_step(part: Part, message: Message) -> Message:
    return Message(part.optim_step(AdamParams(**message.header["params"]))._asdict())


def _snapshot(part: Part, message: Message) -> Message:
    handle = part.snapshot()
    part.handles[handle.name] = handle
    return Message({"name": handle.name})


def _hash(part: Part, message: Message) -> Message:
    every = message.header["every"]
    return Message({"hash": part.model_hash() if every else part.weights_hash()})


def _save(part: Part, message: Message) -> Message:
    path = message.header["path"]
    write = part.write_pretrained if message.header["pretrained"] else part.write
    write(None if path is None else Path(path))
    return Message({})


def _load(part: Part, message: Message) -> Message:
    found, part.found = part.found, None
    part.take_up(found, message.header["layout"])
    return Message({})


TASKS: dict[str, Task] = {
    "sample": _sample,
    "score": _score,
    "train": _train,
    "optim_step": _optim_step,
    "snapshot": _snapshot,
    "hash": _hash,
    "save": _save,
    "load": _load,
}
"""What a process does with its part of an engine, by the name in a message."""
