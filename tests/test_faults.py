"""A whole run against a real server that fails, hangs and is interrupted; and where the key is afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.errors import LMError
from harness.lm.client import Client
from harness.lm.endpoint import Endpoint
from harness.lm.finetune import FineTunedProvider
from harness.lm.providers import make_provider_factory
from harness.lm.request import LMRef, Message, Request
from harness.lm.retry import RetryPolicy
from harness.runtime import Runtime  # noqa: F401 -- see `_litellm`
from tests.http_lm import seeded_faults
from tests.http_parity import SMALL_SUITE, HttpTuner
from tests.simulated import figures

KEY = "sk-planted-0123456789abcdef"
ATTEMPTS = 5
FAULTS = ("429", "500", "503", "hang", "reset", "half", "truncated", "empty-choices", "wrong-model")


@pytest.fixture(scope="module", autouse=True)
def _litellm() -> None:
    """Litellm is imported before pytester takes note of what was: its runs inside this process take back the rest."""
    with HttpTuner() as server, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        endpoint = Endpoint(server.base_url)
        with Client(None, make_provider_factory({"openai/*": endpoint})) as client:
            client.call(Request(LMRef("openai/base"), (Message("user", "number: 1"),)))


@pytest.fixture
def server() -> Iterator[HttpTuner]:
    with HttpTuner() as running:
        yield running


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are cut short; the rest of the policy is the product's."""
    wait = RetryPolicy.wait

    def soon(policy: RetryPolicy, error: LMError, attempt: int, digest: str) -> float | None:
        assert policy.attempts == ATTEMPTS
        asked = wait(policy, error, attempt, digest)
        return asked and min(asked, 0.02)

    monkeypatch.setattr(RetryPolicy, "wait", soon)
    monkeypatch.setattr(FineTunedProvider, "poll_seconds", 0.05)


@pytest.fixture
def project(server: HttpTuner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The parity suite on the server; its own failures count as soon as one example is unscored."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "-2")
    monkeypatch.setenv("BT_TEST_KEY", KEY)
    monkeypatch.setenv("BT_LM", "openai/base")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.makepyfile(test_parity=SMALL_SUITE.replace("THRESHOLD", "0.0, max_unscored=0.0"))
    pytester.makepyprojecttoml(
        f'[tool.bt-harness.lm."openai/*"]\nbase_url = "{server.base_url}"\napi_key_env = "BT_TEST_KEY"\n'
        "timeout = 2\nsame_model = true\n"
    )
    return pytester


def test_scores_under_faults_on_30_percent_of_calls_are_those_without(
    server: HttpTuner, project: pytest.Pytester
) -> None:
    options = ["--bt-optimize", "--bt-strategies", "p -> w"]
    project.runpytest(*options, "--bt-store", "quiet", "--bt-json", "quiet.json").assert_outcomes(passed=3)
    quiet = len(server.requests)
    for seen in (server.requests, server.jobs, server.files, server.looks):
        seen.clear()
    server.hang = 4.0
    server.fault = seeded_faults(0.3, FAULTS)
    result = project.runpytest(*options, "--bt-store", "loud", "--bt-json", "loud.json")
    result.assert_outcomes(passed=3)
    assert figures(project.path / "loud.json") == figures(project.path / "quiet.json")
    assert len(server.requests) == quiet + sum(server.faults.values())
    assert 0.2 < sum(server.faults.values()) / len(server.requests) < 0.4
    assert set(server.faults) == set(FAULTS)
    tries = Counter(json.dumps(body, sort_keys=True) for body in server.requests)
    assert 1 < max(tries.values()) <= ATTEMPTS


def test_a_server_that_never_recovers_is_not_asked_beyond_the_limit(
    server: HttpTuner, project: pytest.Pytester
) -> None:
    server.fault = lambda body, _: "503" if body["messages"][-1]["content"].endswith("7") else None
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*1 of 15 test examples are unscored*OverloadedError*"])
    assert Counter(json.dumps(body, sort_keys=True) for body in server.requests).most_common(1)[0][1] == ATTEMPTS


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_interrupt_ends_the_run_with_the_report_so_far(
    server: HttpTuner, project: pytest.Pytester, workers: str
) -> None:
    slow = (project.path / "test_parity.py").read_text().replace("rows(200", "rows(300")
    project.makepyfile(test_slow=slow.replace("test_parity", "test_slow"))
    server.fault = lambda body, _: "hang" if body["messages"][-1]["content"].startswith("number: 3") else None
    server.hang = 3600.0
    settings = project.path / "pyproject.toml"
    settings.write_text(settings.read_text().replace("timeout = 2", "timeout = 3600"))
    # The pytest plugin of hypothesis imports all of hypothesis when a run is interrupted.
    command = [sys.executable, "-u", "-m", "pytest", "--bt-optimize", "-k", "vanilla", "--bt-json", "report.json"]
    command += ["-p", "no:hypothesispytest", "-v", "-n", workers]
    with subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            output = ""
            while "PASSED" not in output:  # a worker's line ends when the next one begins
                read = running.stdout.read(1)
                assert read, output
                output += read
            while not server.faults["hang"]:
                time.sleep(0.01)
            running.send_signal(signal.SIGINT)
            output += running.stdout.read()  # what waits for a call under way waits for an hour
            running.wait()
        finally:
            running.kill()
    assert running.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in output
    assert "vanilla" in output.partition("LM programs")[2]
    (suite,) = json.loads((project.path / "report.json").read_text())["suites"]
    assert suite["suite"] == "parity"
    assert [row["strategy"] for row in suite["strategies"]] == ["vanilla"]


def test_the_key_is_in_no_byte_that_is_written(
    server: HttpTuner, project: pytest.Pytester, capfd: pytest.CaptureFixture[str]
) -> None:
    everything = ["--bt-optimize", "--bt-strategies", "w", "--bt-save", "tuned"]
    options = ["--bt-json", "report.json", "--junit-xml", "junit.xml", "--log-level", "DEBUG", "-vv", "--showlocals"]
    log = [f"--log-file={name}.log" for name in ("refused", "quiet")]
    server.fault = lambda *_: "403"
    outputs = [project.runpytest(*options, log[0])]
    outputs[0].stdout.fnmatch_lines(["*AuthenticationError*refused the key*Key ??? has no access*"])
    server.fault = seeded_faults(0.3)
    outputs.append(project.runpytest(*everything, *options, log[1]))
    outputs[1].assert_outcomes(passed=3)
    program = project.path / "tuned" / "parity.json"
    for arguments in (["export", str(program), "--to", str(project.path / "exported")], ["show", str(program)]):
        assert main(arguments) == 0
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err
    for output in outputs:
        assert KEY not in output.stdout.str() + output.stderr.str()
    files = [path for path in project.path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert names >= {"store.sqlite", "report.json", "junit.xml", "parity.json", "quiet.log", "README.md"}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert f"Bearer {KEY}" in {headers.get("authorization") for headers in server.headers}, "it was planted"
