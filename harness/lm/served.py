"""One base model in memory with any number of LoRA adapters beside it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import AdapterError
from harness.train.adapters import WEIGHTS_FILE, Adapters
from harness.train.loader import LoadedModel

__all__ = ["ServedModel"]

Forward = Callable[..., Any]
"""The model's forward pass; takes the rows' adapters (None where the batch has only one) and keyword arguments."""


class ServedModel:
    """A base model whose adapters are loaded by digest, on first use, and dropped least recently used first.

    Not safe for threads: the engine's one thread owns it.
    """

    def __init__(self, loaded: LoadedModel, *, kept: int = 16) -> None:
        self.loaded = loaded
        self.base = loaded.model
        self.tokenizer = loaded.tokenizer
        self.device = self.base.device
        self._kept = kept
        self._peft: Any = None
        self._names: OrderedDict[str, str] = OrderedDict()
        self._active: str | None = None

    @property
    def context(self) -> int | None:
        """Tokens that prompt and completion may have together; None where the model states no bound."""
        limit = getattr(self.base.config.get_text_config(), "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def border(self) -> int | None:
        """The length from which on the model turns all positions otherwise (LongRoPE, Phi-3's); None without one.

        transformers goes by the longest row of a batch.
        """
        rope = getattr(self.base.config.get_text_config(), "rope_parameters", None) or {}
        return int(rope["original_max_position_embeddings"]) if rope.get("rope_type") == "longrope" else None

    @property
    def adapters(self) -> tuple[str, ...]:
        """Digests of the adapters in memory, least recently used first."""
        return tuple(self._names)

    def load(self, digest: str, adapters: Adapters) -> None:
        """Have an adapter in memory.

        Raises:
            AdapterError: it is missing, damaged or was made for another model.
        """
        if digest in self._names:
            self._names.move_to_end(digest)
            return
        self.attach(_name(digest), adapters.path(digest))
        self._names[digest] = _name(digest)
        self.freeze()

    def evict(self, needed: Sequence[str]) -> None:
        """Drop adapters beyond the number to keep, never one of ``needed``."""
        for digest in [known for known in self._names if known not in set(needed)]:
            if len(self._names) <= self._kept:
                return
            self.detach(self._names.pop(digest))

    def attach(self, name: str, folder: Path) -> Any:
        """Load an adapter's folder under a name of PEFT's and return the PEFT model.

        Raises:
            AdapterError: the weights do not fit the model; the model is as it was before.
        """
        import torch
        from peft import PeftConfig, set_peft_model_state_dict
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            # Not PEFT's load_adapter: where that fails half-way, the base model keeps an adapter of noise.
            weights = load_file(folder / WEIGHTS_FILE, device=str(self.device))
        except (OSError, SafetensorError) as error:
            raise AdapterError(
                f"The adapter in {folder} cannot be read: {error}. Delete {folder} and run the optimization again to "
                "train it anew, or import it from where it was saved."
            ) from error
        try:
            # PEFT draws initial weights before it gets the stored ones; that must not move the global generator.
            with torch.random.fork_rng(devices=[]):
                config = PeftConfig.from_pretrained(str(folder))
                # PEFT warns where the base model is now called otherwise; whether the adapter fits is seen below.
                config.base_model_name_or_path = None
                model = self.create(name, config)
            result = set_peft_model_state_dict(model, weights, adapter_name=name)
            absent = [key for key in result.missing_keys if f".{name}." in key]
            if absent or result.unexpected_keys:
                raise ValueError(f"{[*absent, *result.unexpected_keys][0]} has no counterpart.")
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            self.detach(name)
            raise AdapterError(
                f"The adapter in {folder} does not fit the model {self.base.config.name_or_path}: {error} "
                "Use the model it was trained on."
            ) from error
        model.eval()
        return model

    def create(self, name: str, config: Any) -> Any:
        """Add a new adapter to train under a name of PEFT's and return the PEFT model."""
        self._active = None
        if self._peft is None:
            self._peft = self.loaded.adapt(self.base, config, name)
        else:
            self._peft.add_adapter(name, config)
            # The one that PEFT calls active may have been dropped, and PEFT looks it up where experts are adapted.
            self._peft.set_adapter(name)
        return self._peft

    def activate(self, name: str, *, trainable: bool) -> None:
        """Make one adapter the active one of the PEFT model, and the only trainable one where asked."""
        self._enable(True)
        self.freeze()
        self._peft.set_adapter(name, inference_mode=not trainable)
        if trainable:
            self.loaded.switch(self._peft, True)
        self._active = name

    def detach(self, name: str) -> None:
        """Drop an adapter by its PEFT name; the base model's weights are untouched."""
        if self._peft is not None and name in self._peft.peft_config:
            # PEFT warns where it has to choose another active adapter itself.
            if remaining := [known for known in self._peft.peft_config if known != name]:
                self.activate(remaining[0], trainable=False)
            self._peft.delete_adapter(name)
        self._active = None

    def freeze(self) -> None:
        """Back to inference: eval mode, no gradients wanted or kept."""
        module = self.base if self._peft is None else self._peft
        if self._peft is not None:
            self.loaded.switch(self._peft, False)
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    @contextmanager
    def using(self, rows: Sequence[str | None]) -> Iterator[Forward]:
        """The forward pass for a batch whose rows use these adapters (digests; None is the base model).

        Rows of one adapter run through the plain model with that adapter active. Rows of several go through PEFT's
        mixed batch, which computes the base model once for all.
        """
        distinct = set(rows)
        if len(distinct) == 1:
            self._switch(next(iter(distinct)))
            yield lambda _rows, **inputs: self.base(**inputs)
            return
        self._switch(next(digest for digest in rows if digest is not None))

        def mixed(chosen: Sequence[str | None], **inputs: Any) -> Any:
            names = ["__base__" if digest is None else self._names[digest] for digest in chosen]
            return self._peft(adapter_names=names, **inputs)

        hooks = {module: set(module._forward_pre_hooks) for module in self.base.modules()}
        try:
            yield mixed
        except BaseException:
            # PEFT tells layers the rows' adapters by hooks, and leaves these behind where the pass fails: the next
            # batch would be computed with the adapters of this one.
            for module, known in hooks.items():
                for key in set(module._forward_pre_hooks) - known:
                    del module._forward_pre_hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
            raise

    def _switch(self, digest: str | None) -> None:
        if self._peft is None:
            return
        if digest is None:
            # Disabled layers stay wrapped but compute the base layer alone.
            self._enable(False)
            self._active = None
        elif self._active != self._names[digest]:
            self.activate(self._names[digest], trainable=False)
            self.freeze()

    def _enable(self, on: bool) -> None:
        # Layer by layer: PEFT's switch for the whole model fails once the adapter it calls active was dropped.
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in self.base.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(on)


def _name(digest: str) -> str:
    # PEFT warns of names that are part of its parameter prefix, and a module's name must hold no dot.
    return f"adapter-{digest}"
