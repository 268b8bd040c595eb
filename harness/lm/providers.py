"""From a model string to the provider behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness.errors import UnknownModelError, UsageError
from harness.lm.endpoint import Endpoint, EndpointProvider
from harness.lm.finetune import FineTunedProvider
from harness.lm.request import Provider, ProviderFactory
from harness.lm.table import endpoint_for

if TYPE_CHECKING:
    from harness.train.adapters import Adapters

__all__ = ["check_model", "make_provider_factory", "register"]

_TUNABLE = ("openai",)
"""Providers that tune weights themselves."""

_MODEL = re.compile(r"[A-Za-z][\w.-]*/\S.*")


def check_model(model: str) -> None:
    """Raise `UnknownModelError` unless ``model`` is PROVIDER/NAME; needs neither litellm nor the network.

    Whether litellm knows the provider is seen at the first call: its import takes seconds that a run answered from
    the store need not spend.
    """
    if not _MODEL.fullmatch(model):
        raise UnknownModelError(
            f"{model!r} names no LM: a model string is PROVIDER/NAME as litellm has them (openai/..., "
            "anthropic/..., hosted_vllm/..., ollama/...) or local/NAME_OR_PATH"
        )


def make_provider_factory(
    endpoints: Mapping[str, Endpoint] | None = None, *, adapters: Adapters | None = None, loader: str = "auto"
) -> ProviderFactory:
    """The factory for `Client`: ``local/...`` runs in this process, everything else goes through litellm.

    ``endpoints`` holds settings by model string or by ``PROVIDER/*``; ``adapters`` are the trained
    weights, ``loader`` is how local models are loaded (`harness.train.loader.LOADERS`). The factory raises
    `UnknownModelError` for what is no model string.
    """
    table = dict(endpoints or {})

    def make(model: str) -> Provider:
        check_model(model)
        prefix = model.partition("/")[0]
        if prefix == "local":
            from harness.lm.local import LocalProvider

            return LocalProvider(model, adapters, loader=loader)
        if prefix in _MAKERS:
            return _MAKERS[prefix](model, adapters)
        settings = endpoint_for(table, model)
        if prefix == "hosted_vllm":
            from harness.lm.vllm import VllmProvider

            return VllmProvider(model, settings, adapters, loader=loader)
        kind = FineTunedProvider if prefix in _TUNABLE else EndpointProvider
        return kind(model, settings)

    return make


Maker = Callable[[str, "Adapters | None"], Provider]
"""Makes the provider of a model string; the adapters are those that weight optimization stores."""


def register(prefix: str, make: Maker) -> None:
    """Let ``PREFIX/...`` model strings be served by a provider of your own, from a ``conftest.py`` say.

    Raises `UsageError` for a prefix that no model string can have, and for ``local``.
    """
    if prefix == "local" or "/" in prefix or not _MODEL.fullmatch(f"{prefix}/x"):
        raise UsageError(f"a provider cannot be named {prefix!r}: the name is taken or no word.")
    _MAKERS[prefix] = make


_MAKERS: dict[str, Maker] = {}
