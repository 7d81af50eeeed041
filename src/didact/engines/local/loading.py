"""A model, its tokenizer, and the device and precision that they run in."""

from __future__ import annotations

import copy
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.errors import CapabilityError, DataError, DidactError, UsageError

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
        UsageError: there is no such model, or a file of it is broken.
        DataError: its weights are incomplete, or do not fit its config or tokenizer.
    """
    try:
        return _load(path_or_id, dtype=dtype, attention=attention)
    except (DidactError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # broken files raise what their readers happen to
        raise UsageError(
            f"cannot load the model {path_or_id!r}: {type(error).__name__}: {error}. Give a directory that "
            "save_pretrained wrote, or a hub id of a causal language model with safetensors weights"
        ) from error


def _load(path_or_id: str, *, dtype: torch.dtype, attention: str | None) -> tuple[Any, Any]:
    folder, base = Path(path_or_id), path_or_id
    adapter = (folder / "adapter_config.json").exists()
    if adapter:
        from peft import LoraConfig

        if not (folder / ADAPTER).exists():
            raise UsageError(
                f"the adapter in {path_or_id!r} has no {ADAPTER}, and a pickle could run code: save it again "
                "with peft's save_pretrained"
            )
        named: str | None = LoraConfig.from_pretrained(path_or_id).base_model_name_or_path
        if named is None:
            raise ValueError("its adapter_config.json does not name a base model")
        base = named
    tokenizer = AutoTokenizer.from_pretrained(path_or_id, trust_remote_code=False)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, info = loaded
    for kind, what in (("missing_keys", "lack"), ("mismatched_keys", "have in another shape")):
        if names := sorted(map(str, info[kind])):
            raise DataError(
                f"the weights of {base!r} {what} {len(names)} tensors, the first of them {names[0]}: they "
                "would start at random; load a complete model"
            )
    return (_merged(model, tokenizer, folder) if adapter else model), tokenizer


def _merged(model: Any, tokenizer: Any, folder: Path) -> Any:
    """The model with a folder's adapter in its weights; a tied tensor that it adapts is untied."""
    from peft import PeftModel

    _resize(model, tokenizer, folder)
    with without_peft_warnings():
        adapted = PeftModel.from_pretrained(model, str(folder))
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


def _resize(model: Any, tokenizer: Any, folder: Path) -> None:
    """Give the embeddings as many rows as those that the adapter in a folder has trained.

    Raises:
        DataError: the tokenizer has ids beyond the embeddings, and the adapter has no rows for them.
    """
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {name for name, module in model.named_modules() if any(module is part for part in parts)}
    ends = tuple(f"{name}{kind}.weight" for name in names for kind in ("", ".modules_to_save"))
    with safe_open(folder / ADAPTER, framework="pt") as file:
        rows = {file.get_slice(key).get_shape()[0] for key in file.keys() if key.endswith(ends)}  # noqa: SIM118
    there = parts[0].weight.shape[0]
    if rows and max(rows) != there:
        model.resize_token_embeddings(max(rows), mean_resizing=False)
    elif len(tokenizer) > there:
        raise DataError(
            f"the tokenizer in {str(folder)!r} has {len(tokenizer)} tokens, its base model embeds {there}, "
            "and the adapter has no rows for the added ones: save it with peft's save_embedding_layers=True, "
            "or remove the added tokens from its tokenizer"
        )


def _shared_tensors(model: Any) -> list[list[tuple[torch.nn.Module, str]]]:
    """Parameters that several modules hold of which an adapter wraps one: each as (module, attribute)."""
    holders: dict[int, list[tuple[torch.nn.Module, str]]] = defaultdict(list)
    wrapped = set()
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                holders[id(parameter)].append((module, name))
                if path.endswith(".base_layer"):
                    wrapped.add(id(parameter))
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
    """A float32 copy of a model with its adapter merged in; the model itself stays as it is."""
    with without_peft_warnings():
        return copy.deepcopy(adapted).float().merge_and_unload()


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Hide that peft 0.21 uses a name that transformers 6 drops, and its hints about tied tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        warnings.filterwarnings("ignore", ".*(tie|embedding)", UserWarning)
        yield
