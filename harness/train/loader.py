"""How a base model comes into memory; another way to load one is another `Loader`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

from harness.errors import UnknownModelError, UsageError

__all__ = [
    "CHECKPOINTED_PARAMETERS",
    "LOADERS",
    "LoadedModel",
    "Loader",
    "check_loader",
    "load_with_transformers",
    "loader_named",
    "quiet",
]

LOADERS: Final = ("auto", "unsloth", "unsloth-4bit", "transformers")
"""What ``--bt-loader`` may name. ``auto`` is Unsloth where there is CUDA and it imports, otherwise transformers."""

CHECKPOINTED_PARAMETERS: Final = 500_000_000
"""From this size on, activations are computed again in the backward pass rather than kept (on CUDA)."""


def _with_peft(model: Any, config: Any, name: str) -> Any:
    from peft import get_peft_model

    return get_peft_model(model, config, adapter_name=name)


def _same_in_both_modes(_model: Any, _trains: bool) -> None:
    pass


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM in eval mode on its device, its tokenizer, and what its loader does beside PEFT and TRL.

    ``adapt`` puts the first LoRA adapter (a PEFT config and its name) on the model; ``switch`` is called with the
    PEFT model and whether it trains next; ``optimized`` says that the loader brings its own loss and its own gradient
    checkpointing.
    """

    model: Any
    tokenizer: Any
    adapt: Callable[[Any, Any, str], Any] = _with_peft
    switch: Callable[[Any, bool], None] = _same_in_both_modes
    optimized: bool = False


class Loader(Protocol):
    """Loads the model in a folder of safetensors weights; raises `UnknownModelError` where it cannot."""

    def __call__(self, folder: Path) -> LoadedModel: ...


def check_loader(name: str) -> str:
    """The name, where it is one of `LOADERS` and can be used here. Raises `UsageError`; imports nothing heavy."""
    if name not in LOADERS:
        raise UsageError(f"--bt-loader {name!r} is not allowed; give {', '.join(LOADERS[:-1])} or {LOADERS[-1]}.")
    if name.startswith("unsloth") and find_spec("unsloth") is None:
        raise UsageError(
            f"--bt-loader {name} needs Unsloth, which is not installed; install bt-harness[gpu], or leave the option "
            "out."
        )
    return name


def loader_named(name: str) -> Loader:
    """The loader of this name in `LOADERS`; ``auto`` is decided here, which imports torch."""
    from harness.train.unsloth import load_with_unsloth, unsloth_imports

    match check_loader(name):
        case "unsloth":
            return load_with_unsloth
        case "unsloth-4bit":
            return partial(load_with_unsloth, four_bit=True)
        case "auto" if _has_cuda() and unsloth_imports():
            return load_with_unsloth
        case _:
            return load_with_transformers


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def load_with_transformers(folder: Path) -> LoadedModel:
    """Load with transformers: on CUDA in bfloat16, or float16 where the GPU has no other; else in float32 on the CPU.

    Raises:
        UnknownModelError: the folder's files are no causal LM that transformers knows, or are damaged.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cuda = torch.cuda.is_available()
    dtype = torch.float32
    if cuda:
        # Older GPUs emulate bfloat16, many times slower than what they have.
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype
            )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise UnknownModelError(
            f"The model in {folder} cannot be loaded: {error} Its folder must hold the config, tokenizer and "
            "safetensors weights of a causal LM that transformers supports."
        ) from error
    model = model.to("cuda" if cuda else "cpu").eval()
    model.requires_grad_(False)
    return LoadedModel(model, tokenizer)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The progress bars and notes of transformers switched off, and back to what they were."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
