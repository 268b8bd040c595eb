"""A ledger in a file, for a run whose worker processes share one budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from harness.errors import StoreError
from harness.lm.budget import Spent

__all__ = ["FileLedger"]


class FileLedger:
    """See `harness.lm.budget.Ledger`. A transaction takes about a tenth of a millisecond."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path.with_suffix(".lock"), mode=0o600)

    def add(self, more: Spent, unless: Callable[[Spent], str]) -> str:
        """See `Ledger`; raises `StoreError` where the file cannot be read or written."""
        try:
            with self._lock:
                spent = Spent(**json.loads(self._path.read_text())) if self._path.exists() else Spent()
                reason = unless(spent)
                if not reason:
                    written = self._path.with_suffix(".new")
                    written.write_text(json.dumps(asdict(spent + more)))
                    written.replace(self._path)  # a worker that is killed here leaves the others a whole file
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"the budget's ledger {self._path} failed ({error}); make its folder writable") from None
        return reason
