"""A model, its tokenizer, and the device and precision that they run in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.errors import CapabilityError, DataError, UsageError

Precision = Literal["auto", "float32", "bfloat16"]


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
        UsageError: there is no such model.
        DataError: its weights are incomplete.
    """
    adapter = (Path(path_or_id) / "adapter_config.json").exists()
    if adapter and not (Path(path_or_id) / "adapter_model.safetensors").exists():
        raise UsageError(
            f"the adapter in {path_or_id!r} has no adapter_model.safetensors, and a pickle could run code: "
            "save it again with peft's save_pretrained"
        )
    try:
        base = path_or_id
        if adapter:
            from peft import LoraConfig

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
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"cannot load the model {path_or_id!r}: {error}. Give a directory that save_pretrained wrote, "
            "or a hub id of a causal language model with safetensors weights"
        ) from error
    model, info = loaded
    if info["missing_keys"]:
        raise DataError(
            f"the weights of {base!r} lack {len(info['missing_keys'])} tensors, the first of them "
            f"{sorted(info['missing_keys'])[0]!r}: they would start at random; load a complete model"
        )
    if adapter:
        from peft import PeftModel

        with _without_peft_warning():
            model = PeftModel.from_pretrained(model, path_or_id).merge_and_unload()
    return model, tokenizer


def with_lora(model: Any, settings: LoraSettings) -> Any:
    """The model with a fresh adapter as its only trainable part. The global random state is kept.

    Raises:
        UsageError: the model has no such target modules.
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
    with torch.random.fork_rng(), _without_peft_warning():
        torch.manual_seed(settings.seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            linear = (n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear))
            names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise UsageError(
                f"model.lora.target_modules = {targets!r}: {error}. Take all-linear, or some of: {names}"
            ) from error


@contextmanager
def _without_peft_warning() -> Iterator[None]:
    """Hide the warning that peft 0.21 uses a name that transformers 6 drops."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
