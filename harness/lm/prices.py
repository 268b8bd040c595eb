"""What an LM's tokens cost."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from harness.errors import UsageError
from harness.lm.budget import Price, Prices
from harness.lm.endpoint import load_litellm
from harness.lm.request import LMRef
from harness.lm.table import Endpoints, endpoint_for

__all__ = ["prices"]

_FREE: Final = ("ollama", "ollama_chat")
"""Providers on a machine of one's own, free unless the table says otherwise."""
_TOKENS: Final = 1000
"""Of one call that the list is asked for: long prompts cost more a token with some providers."""


def prices(endpoints: Endpoints) -> Prices:
    """Prices from the LM table, else from the price list that litellm carries.

    LMs in this process and Ollama's are free. Nought in that list is no price: LMs of paid providers for which nobody
    has filled one in stand there so. The function raises `UsageError` for an LM whose price neither knows.
    """

    @cache
    def price(lm: LMRef) -> Price:
        prefix = lm.model.partition("/")[0]
        if prefix == "local":
            return Price()
        endpoint = endpoint_for(endpoints, lm.model)
        if endpoint is not None and (endpoint.prompt_price is not None or endpoint.completion_price is not None):
            return Price((endpoint.prompt_price or 0.0) / 1e6, (endpoint.completion_price or 0.0) / 1e6)
        if prefix in _FREE:
            return Price()
        litellm = load_litellm()
        # Weights that a provider tuned have a price of their own, under their own name.
        for name in [f"{prefix}/{lm.adapter}"] if lm.adapter else [lm.model]:
            found = _listed(litellm, name)
            if found is not None:
                return found
        raise UsageError(
            f"nobody knows the price of {lm.model}, so --bt-max-cost cannot be kept. Set prompt_price and "
            f'completion_price (US dollars for a million tokens) in [tool.bt-harness.lm."{lm.model}"], or limit '
            "--bt-max-calls or --bt-max-tokens."
        )

    return price


def _listed(litellm: Any, name: str) -> Price | None:
    try:
        prompt, completion = litellm.cost_per_token(model=name, prompt_tokens=_TOKENS, completion_tokens=_TOKENS)
    except Exception:  # noqa: BLE001 -- litellm raises bare Exceptions for a model that its list lacks
        return None
    return Price(prompt / _TOKENS, completion / _TOKENS) if prompt or completion else None
