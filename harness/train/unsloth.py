"""Loading with Unsloth: LoRA training in less time and memory on a GPU, 4-bit weights, and a CPU backend.

On a GPU the general `FastModel` is taken, not `FastLanguageModel`: the latter's decoding of Llama and Mistral keeps
keys and values inside the attention layers, where batches that shrink, share prefixes and mix adapters would spoil
them. On a CPU the two are one class.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UnknownModelError
from harness.train.loader import CHECKPOINTED_PARAMETERS, LoadedModel, quiet

__all__ = ["load_with_unsloth", "unsloth_imports"]

_SETTINGS = {
    # Text alone is asked for, and torchvision's version is a frequent cause of a refused import.
    "UNSLOTH_SKIP_TORCHVISION_CHECK": "1",
    # It asks the hub how often it is used.
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# Unsloth's own default name for an adapter.
_PLACEHOLDER = "default"


def unsloth_imports() -> bool:
    """Whether Unsloth can be imported and has a device to work on; takes seconds where it can."""
    try:
        _unsloth()
    except Exception:  # noqa: BLE001 - it raises what it likes where a GPU or a package is missing
        return False
    return True


def load_with_unsloth(folder: Path, *, four_bit: bool = False) -> LoadedModel:
    """Load with Unsloth, on CUDA in what the GPU computes best in, elsewhere in float32 through its CPU backend.

    ``four_bit`` quantizes the base model's weights to NF4 (Dettmers et al. 2023, arXiv 2305.14314); adapters stay as
    they are. The tokenizer is the one that transformers loads, so that prompts and training data do not depend on
    the loader.

    Raises:
        UnknownModelError: Unsloth cannot be used here, or cannot load the folder's model.
    """
    try:
        unsloth = _unsloth()
    except Exception as error:
        raise UnknownModelError(
            f"Unsloth cannot be used here: {error} Install a version with a CPU backend (2026.10.9 or later) or use "
            "a GPU; or load with --bt-loader transformers."
        ) from error
    import torch
    from transformers import AutoConfig, AutoTokenizer

    cuda = torch.cuda.is_available() and getattr(unsloth, "DEVICE_TYPE", "cuda") != "cpu"
    try:
        with quiet(), _unheard():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, _ = unsloth.FastModel.from_pretrained(
                model_name=str(folder),
                max_seq_length=getattr(config.get_text_config(), "max_position_embeddings", None) or 4096,
                dtype=None if cuda else torch.float32,
                load_in_4bit=four_bit,
                use_gradient_checkpointing=False,
                # The folder is the model that was asked for, not a name to find a quantized one for.
                use_exact_model_name=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except Exception as error:
        raise UnknownModelError(
            f"Unsloth cannot load the model in {folder}: {error} Load it with --bt-loader transformers."
        ) from error
    if four_bit and getattr(model.config, "quantization_config", None) is None:
        raise UnknownModelError(
            "Unsloth loaded the model in 16 bits where 4 were asked for: bitsandbytes is missing or does not work. "
            "Install it, or take --bt-loader unsloth."
        )
    model.eval()
    model.requires_grad_(False)

    def adapt(model: Any, config: Any, name: str) -> Any:
        # Unsloth makes an adapter of its own name, drawn from a seed of its own. The one that is wanted takes its
        # place, drawn as without Unsloth, so that the same job starts from the same weights.
        large = sum(parameter.numel() for parameter in model.parameters()) >= CHECKPOINTED_PARAMETERS
        with _unheard(), torch.random.fork_rng():
            peft_model = unsloth.FastModel.get_peft_model(
                model,
                r=config.r,
                target_modules=_targets(config.target_modules),
                lora_alpha=config.lora_alpha,
                lora_dropout=config.lora_dropout,
                use_gradient_checkpointing="unsloth" if cuda and large else False,
            )
        peft_model.add_adapter(name, config)
        peft_model.set_adapter(name)
        peft_model.delete_adapter(_PLACEHOLDER)
        return peft_model

    def switch(model: Any, trains: bool) -> None:
        with _unheard():
            (unsloth.FastModel.for_training if trains else unsloth.FastModel.for_inference)(model)

    return LoadedModel(model, tokenizer, adapt, switch, optimized=True)


def _targets(modules: Any) -> Any:
    return modules if isinstance(modules, str) else sorted(modules)


def _unsloth() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with _unheard(), warnings.catch_warnings():
        # It wants to be imported before transformers, which somebody else may have imported long ago.
        warnings.simplefilter("ignore")
        import unsloth
    return unsloth


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Swallow what this thread prints; stdout belongs to the user's program, and to other threads meanwhile."""
    outer = sys.stdout
    mute = _Mute(outer)
    sys.stdout = mute
    try:
        yield
    finally:
        if sys.stdout is mute:
            sys.stdout = outer


class _Mute(io.TextIOBase):
    def __init__(self, outer: Any) -> None:
        self._outer, self._thread = outer, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else int(self._outer.write(text))

    def flush(self) -> None:
        self._outer.flush()

    def isatty(self) -> bool:
        return bool(self._outer.isatty())
