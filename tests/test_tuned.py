"""Tuned programs as files and as functions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness.lm.request import LMRef, Sampling
from harness.state import State
from harness.tuned import Tuned
from tests.test_evaluate import Object, SimulatedClient, ask, ask_async, coroutine_function, returns_a_coroutine


def tuned(program: Any) -> Tuned[..., Any]:
    client: Any = SimulatedClient()
    return Tuned(program, State(LMRef("tuned")), Sampling(), client)


@pytest.mark.parametrize("program", [ask_async, coroutine_function, returns_a_coroutine, Object()])
def test_what_is_awaited_runs_with_the_state(program: Any) -> None:
    assert asyncio.run(tuned(program)(["a"])).startswith("tuned notes:")


def test_what_is_not_awaited_does_too() -> None:
    assert tuned(ask)(["a"]).startswith("tuned notes:")
