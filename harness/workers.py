"""What the worker processes of one pytest-xdist run share: the budget, and the requests a minute."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.lm.budget import Ledger
    from harness.lm.endpoint import Endpoint
    from harness.lm.table import Endpoints

__all__ = ["Ledgers", "endpoints_of", "ledger_of"]

_FOLDER = "bt_ledger"


class Ledgers:
    """The controller's side: a folder for the ledger that all of its workers write."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def share(self, workerinput: dict[str, Any]) -> None:
        """Tell a worker, before it starts, where the run's ledger is."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="bt-harness-budget-"))
        workerinput[_FOLDER] = str(self._folder)

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def ledger_of(config: pytest.Config) -> Ledger:
    """The run's ledger: in a file where this process is one of several workers."""
    from harness.lm.budget import MemoryLedger

    folder = _workerinput(config).get(_FOLDER)
    if folder is None:
        return MemoryLedger()
    from harness.lm.ledger import FileLedger

    return FileLedger(Path(folder) / "ledger.json")


def endpoints_of(config: pytest.Config) -> Endpoints:
    """The LM table of the project's ``pyproject.toml``, under what `harness.configure` set. Raises `UsageError`.

    A worker gets its share of the requests a minute: the limit is that of the run.
    """
    from harness.context import configured_endpoints
    from harness.lm.table import endpoints_in

    found = {**endpoints_in(config.rootpath), **configured_endpoints()}
    workers = int(_workerinput(config).get("workercount", 1))
    return {name: _shared(endpoint, workers) for name, endpoint in found.items()}


def _shared(endpoint: Endpoint, workers: int) -> Endpoint:
    if endpoint.requests_per_minute is None or workers <= 1:
        return endpoint
    return replace(endpoint, requests_per_minute=endpoint.requests_per_minute / workers)


def _workerinput(config: pytest.Config) -> Mapping[str, Any]:
    return getattr(config, "workerinput", {})
