"""Programs and metrics that give awaitables: told apart and run to their end in one way everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["finished", "is_asynchronous"]

T = TypeVar("T")


def is_asynchronous(program: Callable[..., Any]) -> bool:
    """Whether calls give coroutines: of a coroutine function, a module of one, or an object with ``async __call__``.

    An ordinary function that returns an awaitable is known by its result alone.
    """
    return (
        inspect.iscoroutinefunction(program)
        or inspect.iscoroutinefunction(type(program).__call__)
        or bool(getattr(program, "asynchronous", False))
    )


async def finished(awaitable: Awaitable[T]) -> T:
    """What an awaitable gives, as the coroutine that ``asyncio.run`` wants."""
    return await awaitable
