"""SIGKILL at any moment: run again, and nothing finished is done twice and the figures are those of a quiet run."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from harness.lm.request import digest_of
from harness.store import Store
from tests.simulated import KILL_AT, LOG, STEPS, SUITE, events, figures

SIGKILLED = -9


def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, store: str, log: Path, kill_at: str = "") -> int:
    monkeypatch.setenv(LOG, str(log))
    monkeypatch.setenv(KILL_AT, kill_at)
    result = pytester.runpytest_subprocess("--bt-optimize", "--bt-store", store, "--bt-json", f"{store}.json", "-q")
    return int(result.ret)


def finished(folder: Path, logs: list[Path]) -> tuple[set[str], int]:
    """Digests of the logged calls whose answers the store holds, and how many trainings it holds."""
    asked = {call["digest"] for log in logs for call in events(log, "call")}
    with Store.open(folder) as store:
        return {digest for digest in asked if store.get_call(digest_of(["sim/plain", digest]))}, count(folder)


def count(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "store.sqlite")) as connection:
        return int(connection.execute("select count(*) from trainings").fetchone()[0])


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    pytester.makeconftest("from tests import simulated\nsimulated.install()\n")
    pytester.makepyfile(test_parity=SUITE.replace("THRESHOLD", "0.2"))
    pytester.makeini("[pytest]\nbt_lm = sim/plain\n")
    assert run(pytester, monkeypatch, "quiet", pytester.path / "quiet.log") == 0

    rng = random.Random(seed)
    moments = [
        f"call:{rng.randint(1, 150)}",
        f"step:{rng.randint(1, STEPS)}",
        f"file:{rng.randint(1, 2)}",  # the weights' and the config's
        f"call:{rng.randint(1, 100)}",
        f"trained:{rng.randint(1, 2)}",
        "",
    ]
    folder, logs = pytester.path / "broken", []
    done: set[str] = set()
    trainings = 0
    for number, moment in enumerate(moments):
        log = pytester.path / f"log{number}"
        assert run(pytester, monkeypatch, "broken", log, moment) == (SIGKILLED if moment else 0)
        assert not done & {call["digest"] for call in events(log, "call")}
        logs.append(log)
        done, trainings = finished(folder, logs)
    assert trainings == len(events(pytester.path / "quiet.log", "training"))
    assert figures(pytester.path / "broken.json") == figures(pytester.path / "quiet.json")
    assert not list((folder / "adapters").glob(".tmp-*"))
