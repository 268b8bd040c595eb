"""Checked by mypy alone: an editor shows the user's own signatures."""

from __future__ import annotations

from typing import Literal, assert_type

import harness
from harness import module

Species = Literal["setosa", "virginica"]


@module
def classify(length: float, width: float = 1.0) -> Species:  # type: ignore[empty-body]
    """Name the species."""


@module(reasoning=True)
async def ask(question: str) -> str:  # type: ignore[empty-body]
    """Answer."""


def program(question: str, k: int = 3) -> list[str]:
    assert_type(classify(1.0, width=2.0), Species)
    classify("long")  # type: ignore[arg-type]
    classify(depth=1.0)  # type: ignore[call-arg]
    return [question] * k


async def async_program(question: str) -> None:
    assert_type(await ask(question), str)


def ship() -> None:
    tuned = harness.load("tuned.json", program)
    assert_type(tuned("why", k=2), list[str])
    tuned(1)  # type: ignore[arg-type]
