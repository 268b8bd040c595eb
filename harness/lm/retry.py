"""When a failed LM call is tried again, and after how long."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from harness.errors import LMError, UsageError

__all__ = ["RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter; all times in seconds.

    ``attempts`` counts the first try. The wait after try *n* lies between half of ``base * 2 ** (n - 1)`` and all
    of it, at most ``cap``, and is no shorter than the server asked for. A server that asks for more than
    ``longest_wait`` (a daily quota) is not waited for. Raises `UsageError` for limits that make no sense.
    """

    attempts: int = 5
    base: float = 0.5
    cap: float = 30.0
    longest_wait: float = 120.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.base, self.cap, self.longest_wait) < 0:
            raise UsageError("a retry policy needs at least one attempt and waits that are not negative")

    def wait(self, error: LMError, attempt: int, digest: str) -> float | None:
        """Seconds until the next try after try number ``attempt`` (from 1) failed; None where there is none.

        The jitter comes from the request's digest: it spreads calls apart and is the same in every run.
        """
        if not error.transient or attempt >= self.attempts:
            return None
        asked = error.retry_after or 0.0
        if asked > self.longest_wait:
            return None
        # The exponent is bounded so that no number of attempts overflows a float.
        whole = min(self.cap, self.base * 2.0 ** min(attempt - 1, 64))
        fraction = int(hashlib.sha256(f"{digest}:{attempt}".encode()).hexdigest()[:8], 16) / 2**32
        return max(asked, whole * (0.5 + 0.5 * fraction))
