"""What a run may spend on LMs. Asked before each request; answers from the store cost nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.errors import BudgetError, LMError
from harness.lm.request import LMRef, Reply, Request

__all__ = ["Budget", "Ledger", "Limits", "MemoryLedger", "Price", "Prices", "Spent"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a run may spend; None is no limit.

    ``calls`` are requests to an LM, each retry one of them; ``tokens`` are those of prompts and completions
    together; ``cost`` is in US dollars.
    """

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None

    def __bool__(self) -> bool:
        return (self.calls, self.tokens, self.cost) != (None, None, None)

    def reached(self, spent: Spent) -> str:
        """In words the first limit that leaves no room for a further call; empty where there is room."""
        if self.calls is not None and spent.calls >= self.calls:
            return f"the budget of {self.calls:,} LM calls is used up"
        if self.tokens is not None and spent.tokens >= self.tokens:
            return f"the budget of {self.tokens:,} tokens is used up ({spent.tokens:,} spent)"
        if self.cost is not None and spent.cost >= self.cost:
            return f"the budget of ${self.cost:,.2f} is used up (${spent.cost:,.2f} spent)"
        return ""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run spent so far; units as in `Limits`."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.calls + other.calls, self.tokens + other.tokens, self.cost + other.cost)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for one token of a prompt and of a completion."""

    prompt: float = 0.0
    completion: float = 0.0


Prices = Callable[[LMRef], Price]
"""The price of an LM; raises `UsageError` where nobody knows it."""


class Ledger(Protocol):
    """Where the spending of a run is written down, by one process or by several."""

    def add(self, more: Spent, unless: Callable[[Spent], str]) -> str:
        """Add ``more`` in one transaction, unless that gives a reason against it: then the reason is returned."""
        ...


class MemoryLedger:
    """The ledger of a run in one process."""

    def __init__(self) -> None:
        self.spent = Spent()
        self._lock = threading.Lock()

    def add(self, more: Spent, unless: Callable[[Spent], str]) -> str:
        """See `Ledger`."""
        with self._lock:
            reason = unless(self.spent)
            if not reason:
                self.spent += more
        return reason


class Budget:
    """A client's gate and observer that hold a run to its limits. Thread-safe.

    No request begins once a limit is reached. Tokens and cost are known only when a call has ended, so the calls
    under way at that moment, at most as many as run concurrently, still count and are kept.
    """

    def __init__(self, limits: Limits, ledger: Ledger, prices: Prices) -> None:
        self._limits, self._ledger, self._prices = limits, ledger, prices
        self._refused = 0

    @property
    def refused(self) -> int:
        """How many calls were refused so far."""
        return self._refused

    def gate(self, request: Request) -> None:
        """Count one request; raises `BudgetError` where it may not be sent."""
        if self._limits.cost is not None:
            self._prices(request.lm)  # an LM without a price must not be called first and asked for its price later
        reason = self._ledger.add(Spent(calls=1), self._limits.reached)
        if reason:
            self._refused += 1
            raise BudgetError(f"{reason}; run again with a larger one to go on from here")

    def record(self, request: Request, outcome: Reply | BaseException) -> None:
        """Count what a call used, an answer that could not be used included."""
        if isinstance(outcome, Reply):
            usage = None if outcome.cached else outcome.completion.usage
        else:
            usage = outcome.usage if isinstance(outcome, LMError) else None
        if usage is None:
            return
        cost = 0.0
        if self._limits.cost is not None:
            price = self._prices(request.lm)
            cost = price.prompt * usage.prompt_tokens + price.completion * usage.completion_tokens
        self._ledger.add(Spent(tokens=usage.prompt_tokens + usage.completion_tokens, cost=cost), lambda _: "")

    def reraise(self, refused_before: int) -> None:
        """Raise `BudgetError` where calls were refused since there were ``refused_before``.

        A program that handles every exception would otherwise turn a refused call into an answer.
        """
        if self._refused > refused_before:
            raise BudgetError(
                f"{self._ledger.add(Spent(), self._limits.reached)}; run again with a larger one to go on from here"
            )
