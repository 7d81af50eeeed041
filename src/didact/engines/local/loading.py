"""A model, its tokenizer, and the device and precision that they run in."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.errors import CapabilityError, DidactError, UsageError

Precision = Literal["auto", "float32", "bfloat16"]
ADAPTER = "adapter_model.safetensors"
PROVENANCE = ("_name_or_path", "transformers_version")
MERGED = "_didact_merged_adapter"
"""Attribute of a model that was loaded with an adapter merged in: its weights are in no folder."""


@dataclass(frozen=True)
class LoraSettings:
    """A low-rank adapter W + (alpha / rank) B A on frozen weights (arXiv:2106.09685), without dropout.

    Attributes:
        rank: Inner size of the adapter.
        alpha: Its scale is alpha / rank.
        target_modules: Names of the adapted layers; "all-linear" means all but the output layer.
        seed: For the random start of A; B starts at 0.
    """

    rank: int = 16
    alpha: float = 32.0
    target_modules: str | Sequence[str] = "all-linear"
    seed: int = 0


def pick_device(name: str) -> torch.device:
    """ "auto" means CUDA, else Apple's MPS, else the CPU.

    Raises:
        UsageError: there is no such device, or it does not work.
    """
    if name != "auto":
        try:
            device = torch.device(name)
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"this machine has no device {name!r} ({reason}): use model.device=auto, or cpu"
            ) from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def use_bfloat16(dtype: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16: on request, and with "auto" on GPUs that support it natively.

    Raises:
        CapabilityError: it is requested, and the device cannot multiply in it.
    """
    if dtype == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == "float32":
        return False
    if dtype != "bfloat16":
        raise UsageError(f"dtype must be 'auto', 'float32' or 'bfloat16', not {dtype!r}")
    try:
        ones = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
        runs = bool((ones @ ones == 2).all())
    except RuntimeError:
        runs = False
    if not runs:
        raise CapabilityError(f"device {str(device)!r} cannot multiply in bfloat16: use dtype='float32'")
    return True


def load_pretrained(path_or_id: str, *, dtype: torch.dtype, attention: str | None) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, from a directory or the hub.

    Weights must be safetensors and no code of the repository runs. A directory with a peft adapter is
    loaded as its base model with the adapter merged in.

    Raises:
        UsageError: there is no such model, a file of it is broken, or its weights do not fit its config.
    """
    folder = Path(path_or_id)
    try:
        tokenizer = _load_tokenizer(path_or_id)
        model = _load_model(path_or_id, dtype=dtype, attention=attention)
    except (DidactError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # broken files raise what their readers happen to
        raise UsageError(
            f"cannot load the model {path_or_id!r}: {type(error).__name__}: {error}. Give a directory that "
            "save_pretrained wrote, or a hub id of a causal language model with safetensors weights"
        ) from error
    there = model.get_input_embeddings().weight.shape[0]
    if getattr(model, MERGED, False) and len(tokenizer) > there:
        raise UsageError(
            f"the tokenizer of the adapter in {str(folder)!r} has {len(tokenizer)} tokens, the model embeds "
            f"{there}, and the adapter has no rows for the added ones: save it with peft's "
            "save_embedding_layers=True, or remove the added tokens from its tokenizer"
        )
    return model, tokenizer


def _load_tokenizer(path_or_id: str) -> Any:
    """That of the base model for an adapter that was saved without one."""
    _check_json(Path(path_or_id))
    base = _base_of(Path(path_or_id))
    if base is not None and not (Path(path_or_id) / "tokenizer_config.json").exists():
        return _load_tokenizer(base)
    return AutoTokenizer.from_pretrained(path_or_id, trust_remote_code=False)


def _load_model(path_or_id: str, *, dtype: torch.dtype, attention: str | None) -> Any:
    folder = Path(path_or_id)
    _check_json(folder)
    stored = _stored_dtypes(folder)
    base = _base_of(folder)
    if base is not None:
        return _merged(_load_model(base, dtype=dtype, attention=attention), folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path_or_id,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, info = loaded
    if hasattr(model, "peft_config"):
        raise UsageError(f"{path_or_id!r} is an adapter on the hub: download it, and give its folder")
    own = {re.sub(r"\d+", "#", name) for name in model.state_dict()}
    more = [name for name in info["unexpected_keys"] if re.sub(r"\d+", "#", name) in own]
    whole = dict(model.named_parameters()) if not hasattr(model, "hf_quantizer") else {}
    cast = [name for name in whole if not stored.get(name, "F").startswith(("F", "BF"))]
    faults = {
        "lack": info["missing_keys"],
        "have more than config.json:": more,
        "have in a wrong dtype": cast,
    }
    for what, names in faults.items():
        if odd := sorted(map(str, names)):
            raise UsageError(
                f"the weights of {path_or_id!r} {what} {len(odd)} tensors, the first of them {odd[0]}: it "
                "would be another model; load a complete one"
            )
    return model


def _base_of(folder: Path) -> str | None:
    """The model under a folder's adapter, which may be an adapter too; None without an adapter."""
    if not (folder / "adapter_config.json").exists():
        return None
    from peft import LoraConfig

    if not (folder / ADAPTER).exists():
        raise UsageError(
            f"the adapter in {str(folder)!r} has no {ADAPTER}, and a pickle could run code: save it again "
            "with peft's save_pretrained"
        )
    named: str | None = LoraConfig.from_pretrained(str(folder)).base_model_name_or_path
    if named is None:
        raise ValueError("its adapter_config.json does not name a base model")
    return named


def _check_json(folder: Path) -> None:
    """Raise a UsageError for a file that is no JSON object: its readers do not name it, or ignore it."""
    for pattern in ("*config.json", "*.index.json", "tokenizer.json"):
        for file in folder.glob(pattern):
            try:
                if not isinstance(json.loads(file.read_bytes()), dict):
                    raise ValueError("no JSON object")
            except ValueError as error:
                raise UsageError(f"{file} cannot be read ({error}): put a whole one in its place") from None


def _stored_dtypes(folder: Path) -> dict[str, str]:
    """The dtypes in the headers of a folder's weights, as "F32"; raises a UsageError for a torn file."""
    found: dict[str, str] = {}
    for file in folder.glob("*model*.safetensors"):
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{file} cannot be read ({error}): put a whole one in its place") from None
    return found


def _merged(model: Any, folder: Path) -> Any:
    """The model with a folder's adapter in its weights; a tied tensor that it adapts is untied."""
    from peft import PeftModel

    _resize(model, folder)
    with without_peft_warnings():
        adapted = PeftModel.from_pretrained(model, str(folder))
        found = adapted.load_adapter(str(folder), "default")  # again, for what it returns
        # peft also saves a second name of modules that it has trained whole.
        unknown = (name for name in found.unexpected_keys if ".modules_to_save." not in name)
        if odd := sorted({*found.missing_keys, *unknown}):
            raise UsageError(
                f"{folder / ADAPTER} and its adapter_config.json or the base model differ in {len(odd)} "
                f"tensors, the first of them {odd[0]}: save the adapter again, with peft's save_pretrained"
            )
        for _, *others in _shared_tensors(adapted):
            for module, name in others:
                setattr(module, name, torch.nn.Parameter(getattr(module, name).detach().clone()))
        model = adapted.merge_and_unload()
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if None not in ends and ends[0].weight is not ends[1].weight:
        for config in (model.config, model.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False
    setattr(model, MERGED, True)
    return model


def _resize(model: Any, folder: Path) -> None:
    """Give the embeddings as many rows as those that the adapter in a folder has trained."""
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {name for name, module in model.named_modules() if any(module is part for part in parts)}
    ends = tuple(f"{name}{kind}.weight" for name in names for kind in ("", ".modules_to_save"))
    with safe_open(folder / ADAPTER, framework="pt") as file:
        rows = {file.get_slice(key).get_shape()[0] for key in file.keys() if key.endswith(ends)}  # noqa: SIM118
    if rows and max(rows) != parts[0].weight.shape[0]:
        model.resize_token_embeddings(max(rows), mean_resizing=False)


def _shared_tensors(model: Any) -> list[list[tuple[torch.nn.Module, str]]]:
    """Parameters that several modules hold of which an adapter wraps one: each as (module, attribute)."""
    holders: dict[Any, list[tuple[torch.nn.Module, str]]] = defaultdict(list)
    wrapped = set()
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                place = parameter.data_ptr(), parameter.shape
                holders[place].append((module, name))
                if path.endswith(".base_layer"):
                    wrapped.add(place)
    return [found for key, found in holders.items() if len(found) > 1 and key in wrapped]


def config_json(model: Any) -> str:
    """Every setting of a model's arithmetic, in one order; not where it was loaded from."""
    values = {k: v for k, v in model.config.to_dict().items() if k not in PROVENANCE}
    return json.dumps(values, sort_keys=True, default=str)


def with_lora(model: Any, settings: LoraSettings) -> Any:
    """The model with a fresh adapter as its only trainable part. The global random state is kept.

    Raises:
        UsageError: the model has no such target modules, or one shares its tensor with another module.
    """
    from peft import LoraConfig, get_peft_model  # seconds of import that full fine-tuning need not pay

    targets = settings.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft says int and only divides by rank
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    linear = (n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
    with torch.random.fork_rng(), without_peft_warnings():
        torch.manual_seed(settings.seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise UsageError(
                f"model.lora.target_modules = {targets!r}: {error}. Take all-linear, or some of: {names}"
            ) from error
    if shared := _shared_tensors(adapted):
        held = {id(module): name for name, module in adapted.get_base_model().named_modules()}
        tied = " and ".join(held[id(module)].removesuffix(".base_layer") for module, _ in shared[0])
        raise UsageError(
            f"model.lora.target_modules = {targets!r}: {tied} share one tensor, and merging an adapter of "
            f"one would change the other. Take all-linear, which leaves them out, or others of: {names}"
        )
    return adapted


def merged_copy(adapted: Any) -> Any:
    """A float32 copy, in the CPU's memory, of a model with the adapter of `with_lora` merged in."""
    model = adapted.get_base_model()
    state = {
        name.replace(".base_layer.", "."): (t.float() if t.is_floating_point() else t).cpu()
        for name, t in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            with torch.no_grad():
                state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight("default").cpu()
    with torch.device("meta"):
        merged = type(model)(copy.deepcopy(model.config))
    merged.load_state_dict(state, assign=True)
    merged.tie_weights()
    merged.generation_config = model.generation_config
    return merged


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Hide that peft 0.21 uses a name that transformers 6 drops, and its hints about kinds of tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        warnings.filterwarnings("ignore", ".*(tie|embedding|fan_in_fan_out)", UserWarning)
        yield
