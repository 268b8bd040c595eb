"""GSM8K as an LM program: reason, then answer (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

from harness import module


@module(reasoning=True)
def answer_problem(question: str) -> str:
    """Solve the grade-school math problem. The answer is a number."""
