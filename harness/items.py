"""A suite's pytest item: which strategy it is for, and what the suite is called."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.suites import METRIC_INPUTS, Suite

__all__ = ["file_name", "home_of", "key_of", "name_of", "own_id"]


def key_of(item: pytest.Function) -> Any:
    """The strategy's id or that of the choice among them; no text where the program is only scored."""
    return item.callspec.params[next(name for name in METRIC_INPUTS if name in item.callspec.params)]


def own_id(item: pytest.Function) -> str:
    """pytest's id of the parameters that are the user's own; empty where there are none."""
    if not _own_parameters(item):
        return ""
    own, key = item.callspec.id, key_of(item)
    # The strategy stands first, unless another plugin goes before this one.
    return f"-{own}-".replace(f"-{key}-", "-", 1)[1:-1] if isinstance(key, str) else own


def name_of(item: pytest.Function, suite: Suite) -> str:
    """The suite's name; suites with parameters are told apart by their ids."""
    own = own_id(item)
    return f"{suite.name}[{own}]" if own else suite.name


def home_of(item: pytest.Function) -> str:
    """Where a suite is written, in words: its file, class and function, and the parameters it is for."""
    own = ", ".join(f"{name}={value!r}" for name, value in _own_parameters(item).items())
    parent = item.parent.nodeid if item.parent is not None else item.path
    return f"{parent}::{item.originalname}" + (f" with {own}" if own else "")


def file_name(suite: str) -> str:
    """Of a suite's tuned program. Names that no file can have are shortened, and told apart by their digest."""
    # A tuned program that is committed must be checked out on Windows as well.
    plain = re.sub(r"[<>:\"/\\|?*\x00-\x1f]", "_", suite)
    if plain == suite and len(plain.encode()) <= 200:
        return f"{plain}.json"
    from harness.lm.request import digest_of

    return f"{plain[:40]}-{digest_of(suite)[:8]}.json"


def _own_parameters(item: pytest.Function) -> dict[str, object]:
    return {name: value for name, value in item.callspec.params.items() if name not in METRIC_INPUTS}
