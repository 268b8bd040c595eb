"""Short word problems as an LM program: write the steps, then the number that is asked for."""

from __future__ import annotations

from harness import module


@module(reasoning=True)
def solve(question: str) -> int:
    """Work out what the story asks for, one calculation at a time."""
