"""What tests share: Ctrl-C that works, and a project with one suite on the simulated LM."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.simulated import CONFTEST, LOG, SUITE


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start: background jobs of a shell without job control ignore it, and
    so do their children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the simulated LM writes down what it is asked."""
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(LOG, str(path))
    monkeypatch.delenv("BT_LM", raising=False)
    return path


@pytest.fixture
def project(pytester: pytest.Pytester, log: Path) -> pytest.Pytester:  # noqa: ARG001 -- its environment is wanted
    """The project; the suite's threshold is one that the best strategy meets."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_parity=SUITE.replace("THRESHOLD", "0.5"))
    pytester.makeini("[pytest]\nbt_lm = sim/plain\n")
    return pytester
