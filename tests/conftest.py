"""A project with one suite on the simulated LM, as most tests of the plugin need it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulated import CONFTEST, LOG, SUITE


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
