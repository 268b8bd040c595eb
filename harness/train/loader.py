"""How a base model comes into memory; another way to load one is another `Loader`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.errors import UnknownModelError

__all__ = ["LoadedModel", "Loader", "load_with_transformers", "quiet"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM in eval mode on its device, and its tokenizer."""

    model: Any
    tokenizer: Any


class Loader(Protocol):
    """Loads the model in a folder of safetensors weights; raises `UnknownModelError` where it cannot."""

    def __call__(self, folder: Path) -> LoadedModel: ...


def load_with_transformers(folder: Path) -> LoadedModel:
    """Load with transformers: on CUDA in bfloat16 where the GPU has it, elsewhere in float32 on the CPU.

    Raises:
        UnknownModelError: the folder's files are no causal LM that transformers knows, or are damaged.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float32
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
