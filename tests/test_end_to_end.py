"""The whole loop for real: the LM that comes with the package generates, is tuned, killed, resumed and shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUITES = Path(__file__).parent.parent / "suites"

# Logs at the engine what it is asked, and dies at an optimizer step or in the middle of writing an adapter.
CONFTEST = """
import json, os, signal, sys
sys.path.insert(0, {root!r})
from harness.lm import local
from harness import runtime
from harness.train import adapters

def die(): os.kill(os.getpid(), signal.SIGKILL)

complete, step, write = local.LocalProvider.complete, runtime._Steps.__call__, adapters._write_synced

async def logged(self, request):
    completion = await complete(self, request)
    with open(os.environ["ENGINE_LOG"], "a") as file:
        file.write(json.dumps([request.digest, request.lm.adapter]) + "\\n")
    return completion

def counted(self, number, total, loss):
    with open(os.environ["ENGINE_LOG"] + ".steps", "a") as file:
        file.write("step\\n")
    if os.environ["DIE_AT"] == f"step {{number}}": die()
    step(self, number, total, loss)

def written(path, data):
    if os.environ["DIE_AT"] == "file":
        path.write_bytes(data[: len(data) // 2])
        die()
    write(path, data)

local.LocalProvider.complete = logged
runtime._Steps.__call__ = counted
adapters._write_synced = written
"""

OPTIONS = ("--bt-optimize", "--bt-strategies", "p-w-p", "--bt-save", "tuned", "--bt-json", "report.json")
SMALLER = ("candidates=2", "demos=6", "rollouts=6", "epochs=2", "min_steps=6", "prompt_validation=15")


def run(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *options: str, die_at: str = ""
) -> tuple[int, list[Any], int]:
    """Exit status, the calls that the engine answered, and the optimizer steps it took."""
    log = project.path / "engine.log"
    for file in (log, Path(f"{log}.steps")):
        file.write_text("")
    monkeypatch.setenv("ENGINE_LOG", str(log))
    monkeypatch.setenv("DIE_AT", die_at)
    changes = [part for change in SMALLER for part in ("--bt-set", change)]
    result = project.runpytest_subprocess("-p", "no:randomly", "test_iris.py", *changes, *options)
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    return int(result.ret), calls, len(Path(f"{log}.steps").read_text().split())


def scores(path: Path) -> Any:
    found = json.loads(path.read_text())
    return [
        (row["strategy"], result["state"], [e["score"] for s in ("validation", "test") for e in result[s]["examples"]])
        for row in found["suites"][0]["strategies"]
        for result in row["results"]
    ]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("BT_LM", raising=False)
    pytester.makeconftest(CONFTEST.format(root=str(SUITES.parent)))
    source = (SUITES / "test_iris.py").read_text()
    assert "threshold=" in source
    pytester.makepyfile(test_iris=source.replace("threshold=0.", "threshold=0.0"))
    return pytester


def test_optimize_kill_resume_ship(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    # Killed inside the training, then while the adapter is being written, then left alone.
    status, first, _ = run(project, monkeypatch, *OPTIONS, die_at="step 3")
    assert status == -9
    assert first
    status, second, steps = run(project, monkeypatch, *OPTIONS, die_at="file")
    assert status == -9
    assert second == []  # everything up to the training was kept
    status, third, again = run(project, monkeypatch, *OPTIONS)
    assert status == 0
    assert again == steps > 3
    asked = [digest for digest, _ in first + third]
    assert len(asked) == len(set(asked))
    broken = scores(project.path / "report.json")

    # After `w`, every call of the next `p` went to the tuned weights.
    adapter = broken[-1][1]["lm"]["adapter"]
    assert broken[-1][0] == "p -> w -> p"
    assert adapter
    assert {lm for _, lm in third} == {adapter}

    # The same command again: no call, no step, the same figures; and those of a run that nobody disturbed.
    status, calls, steps = run(project, monkeypatch, *OPTIONS)
    assert (status, calls, steps) == (0, [], 0)
    assert scores(project.path / "report.json") == broken
    status, calls, _ = run(project, monkeypatch, *OPTIONS, "--bt-store", "quiet")
    assert status == 0
    assert scores(project.path / "report.json") == broken
    assert sorted(digest for digest, _ in calls) == sorted(asked)

    # The saved program, in a new process and without the store, predicts what the run predicted.
    saved = json.loads((project.path / "tuned" / "iris.json").read_text())
    script = (
        "import json, sys; sys.path[:0] = [sys.argv[1], '.']\n"
        "import harness\n"
        "from programs.iris import classify\n"
        "from test_iris import iris_splits\n"
        "tuned = harness.load('tuned/iris.json', classify)\n"
        "rows = iris_splits()['test']\n"
        "print(json.dumps([tuned(**{k: row[k] for k in row if k not in ('species', 'flower')}) for row in rows]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(SUITES.parent)], cwd=project.path, capture_output=True, text=True, check=True
    )
    found = json.loads((project.path / "report.json").read_text())
    row = next(row for row in found["suites"][0]["strategies"] if row["strategy"] == saved["strategy"])
    assert json.loads(done.stdout) == [e["prediction"] for e in row["results"][0]["test"]["examples"]]

    # The gate, on the saved program: exit 0 under a threshold it meets, 1 under one that it misses.
    assert run(project, monkeypatch, "--bt-store", "gate")[0] == 0
    (project.path / "test_iris.py").write_text(
        (project.path / "test_iris.py").read_text().replace("threshold=0.0", "threshold=1.0,  #")
    )
    status, calls, _ = run(project, monkeypatch, "--bt-store", "gate")
    assert (status, calls) == (1, [])
