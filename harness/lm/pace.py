"""Requests spread evenly in time, as a rate limit wants them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

__all__ = ["Pace"]


class Pace:
    """Lets ``per_minute`` requests through each minute, evenly: servers that count by the second refuse a burst.

    For one event loop. ``clock`` gives seconds, ``sleep`` waits for them.
    """

    def __init__(
        self,
        per_minute: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval = 60.0 / per_minute
        self._clock, self._sleep = clock, sleep
        self._next = float("-inf")

    async def turn(self) -> None:
        """Wait for the next place."""
        now = self._clock()
        place = max(now, self._next)
        self._next = place + self._interval
        if place > now:
            await self._sleep(place - now)
