"""From a model string to the provider behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UnknownModelError
from harness.lm.client import Client, Gate, Observer
from harness.lm.endpoint import Endpoint, EndpointProvider
from harness.lm.request import Provider, ProviderFactory
from harness.lm.retry import RetryPolicy

if TYPE_CHECKING:
    from harness.store import Store
    from harness.train.adapters import Adapters

__all__ = ["check_model", "make_client", "make_provider_factory"]

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
    endpoints: Mapping[str, Endpoint] | None = None, *, adapters: Adapters | None = None
) -> ProviderFactory:
    """The factory for `Client`: ``local/...`` runs in this process, everything else goes through litellm.

    ``endpoints`` holds settings by model string or by ``PROVIDER/*``; ``adapters`` are the trained
    weights. The factory raises `UnknownModelError` for what is no model string.
    """
    table = dict(endpoints or {})

    def make(model: str) -> Provider:
        check_model(model)
        prefix = model.partition("/")[0]
        if prefix == "local":
            from harness.lm.local import LocalProvider

            return LocalProvider(model, adapters)
        return EndpointProvider(model, table.get(model) or table.get(f"{prefix}/*"))

    return make


def make_client(
    store: Store | Path | str | None = None,
    *,
    endpoints: Mapping[str, Endpoint] | None = None,
    adapters: Adapters | None = None,
    retry: RetryPolicy | None = None,
    gate: Gate | None = None,
    on_call: Observer | None = None,
) -> Client:
    """A client for every kind of LM. A folder or URL as ``store`` is opened here and closed with the client.

    Without ``adapters`` those beside the store, in its ``adapters`` folder, are used. Raises `StoreError`.
    """
    opened = isinstance(store, str | Path)
    if isinstance(store, str | Path):
        from harness.store import Store as _Store

        kept: Store | None = _Store.open(store)
    else:
        kept = store
    if adapters is None and kept is not None and kept.folder is not None:
        from harness.train.adapters import Adapters as _Adapters

        adapters = _Adapters(kept.folder / "adapters")
    return Client(
        kept,
        make_provider_factory(endpoints, adapters=adapters),
        retry=retry,
        gate=gate,
        on_call=on_call,
        owns_store=opened,
    )
