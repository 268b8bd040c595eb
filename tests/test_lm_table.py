"""The LM table: how endpoints are reached, and who teaches and who judges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.context import configured_endpoints, default_runtime
from harness.errors import UsageError
from harness.lm.endpoint import Endpoint
from harness.lm.pace import Pace
from harness.lm.table import endpoint_for, endpoints_from, endpoints_in
from tests.simulated import SUITE, events


def test_a_whole_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
[tool.bt-harness.lm."openai/*"]
base_url = "https://gateway.example/v1"
api_key_env = "GATEWAY_KEY"
headers = { "X-Team" = "blue" }
timeout = 30
requests_per_minute = 600
concurrency = 8

[tool.bt-harness.lm."openai/big"]
timeout = 300.0
"""
    )
    table = endpoints_in(tmp_path)
    every = Endpoint("https://gateway.example/v1", "GATEWAY_KEY", (("X-Team", "blue"),), 30, 8, 600)
    assert endpoint_for(table, "openai/small") == every
    assert endpoint_for(table, "openai/big") == Endpoint(timeout=300)
    assert endpoint_for(table, "anthropic/any") is None


@pytest.mark.parametrize("text", ["", "[tool.other]\nx = 1\n", "[tool.bt-harness]\n", "[tool.bt-harness.lm]\n"])
def test_no_table(tmp_path: Path, text: str) -> None:
    assert endpoints_in(tmp_path) == {}
    (tmp_path / "pyproject.toml").write_text(text)
    assert endpoints_in(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("openai", {}, "names no LM; write PROVIDER/NAME"),
        ("openai/*", 3, "is no table of settings; settings are base_url, api_key_env"),
        ("openai/*", {"retries": 3}, "unknown setting 'retries'; settings are base_url"),
        ("openai/*", {"max_tokens": 12345678}, "unknown setting 'max_tokens'; settings are base_url"),
        ("openai/*", {"tokens_per_minute": 12345678}, "unknown setting 'tokens_per_minute'"),
        ("openai/*", {"token": "sk-12345678"}, "'token': a key has no place in a file"),
        ("openai/*", {"apikey": "sk-12345678"}, "'apikey': a key has no place in a file"),
        ("openai/*", {"api_key": "sk-12345678"}, "'api_key': a key has no place in a file.*api_key_env"),
        ("openai/*", {"api_key_env": "sk-12345678"}, "no name of an environment variable in capitals"),
        ("openai/*", {"api_key_env": "gsk_aB12345678"}, "no name of an environment variable in capitals"),
        ("openai/*", {"headers": {"Authorization": "Bearer sk-12345678"}}, "header 'Authorization', which holds a key"),
        ("openai/*", {"headers": {"X-Number": 3}}, "headers that are no table of texts"),
        ("openai/*", {"timeout": "soon"}, "timeout of the wrong type; it is float"),
        ("openai/*", {"timeout": True}, "timeout of the wrong type"),
        ("openai/*", {"concurrency": 2.5}, "concurrency of the wrong type; it is int"),
        ("openai/*", {"timeout": 0}, "a timeout above 0 s"),
        ("openai/*", {"requests_per_minute": 0}, "requests_per_minute above 0"),
        ("openai/*", {"prompt_price": -1}, "prices are not negative"),
        ("openai/*", {"base_url": "localhost:8000"}, "starts with http"),
    ],
)
def test_what_is_no_table_is_named_and_a_key_is_not_repeated(name: str, settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        endpoints_from({name: settings})
    assert name in str(caught.value)
    assert "12345678" not in str(caught.value)


def test_requests_are_spread_over_the_minute() -> None:
    now, waits = 100.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    async def ask() -> list[float]:
        nonlocal now
        pace = Pace(120, clock=lambda: now, sleep=sleep)
        starts = []
        for number in range(5):
            now += 2.0 if number == 3 else 0.0
            await pace.turn()
            starts.append(now)
        return starts

    assert asyncio.run(ask()) == [100.0, 100.5, 101.0, 103.0, 103.5]
    assert waits == [0.5, 0.5, 0.5]


def test_requests_at_once_each_get_a_place() -> None:
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def ask() -> None:
        pace = Pace(60, clock=lambda: 0.0, sleep=sleep)
        await asyncio.gather(*(pace.turn() for _ in range(4)))

    asyncio.run(ask())
    assert waits == [1.0, 2.0, 3.0]


@pytest.fixture
def _configured() -> Iterator[None]:
    yield
    harness.configure()
    default_runtime().close()


@pytest.mark.usefixtures("_configured")
def test_configure_takes_the_same_table() -> None:
    harness.configure("openai/m", endpoints={"openai/*": {"timeout": 5, "base_url": "http://127.0.0.1:9/v1"}})
    assert configured_endpoints() == {"openai/*": Endpoint("http://127.0.0.1:9/v1", timeout=5)}
    assert default_runtime().client.identity("openai/m") == "openai/m http://127.0.0.1:9/v1"
    with pytest.raises(UsageError, match="unknown setting"):
        harness.configure("openai/m", endpoints={"openai/*": {"speed": 5}})


def test_a_wrong_table_is_a_usage_error(project: pytest.Pytester) -> None:
    (project.path / "tox.ini").unlink()
    project.makepyprojecttoml('[tool.bt-harness.lm."sim/*"]\napi_key = "sk-12345678"\n')
    result = project.runpytest("--bt-lm", "sim/plain")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *'api_key': a key has no place in a file*"])
    assert "12345678" not in result.stderr.str()


def test_a_teacher_gives_the_traces_and_the_student_the_scores(project: pytest.Pytester, log: Path) -> None:
    project.makepyfile(test_parity=SUITE.replace("THRESHOLD", "0.1"))
    options = ["--bt-optimize", "--bt-strategies", "p -> w", "--bt-json", "report.json"]
    project.runpytest(*options, "--bt-teacher", "sim/teacher").assert_outcomes(passed=3)
    (suite,) = json.loads((project.path / "report.json").read_text())["suites"]
    steps = suite["strategies"][1]["results"][0]["steps"]
    assert all("have a passing trace of sim/teacher" in step["notes"] for step in steps)
    asked = events(log, "call")
    teachers = [call for call in asked if call["model"] == "sim/teacher"]
    students = [call for call in asked if call["model"] == "sim/plain"]
    numbers = {int(call["messages"][-1].removeprefix("number: ")) for call in teachers}
    assert numbers <= set(range(30)), "the teacher sees training data alone"
    assert all(len(call["messages"]) == 2 and call["adapter"] is None for call in teachers), "with original prompts"
    assert {int(call["messages"][-1].removeprefix("number: ")) for call in students} >= set(range(200, 225))
    assert suite["lm"] == "sim/plain"
    assert suite["strategies"][1]["results"][0]["state"]["lm"]["model"] == "sim/plain"


def test_a_judge_answers_for_the_metric_and_is_paid_for(project: pytest.Pytester, log: Path) -> None:
    judged = SUITE.replace("THRESHOLD", "0.0").replace(
        "@suite(", '@module\ndef judge(number: int) -> Literal["even", "odd"]:\n    """Judge."""\n\n@suite('
    )
    judged = judged.replace("prediction == example.parity", "judge(number=example.number + 1000)")
    project.makepyfile(test_parity=judged)
    project.runpytest("--bt-judge", "sim/judge", "--bt-json", "report.json").assert_outcomes(passed=1)
    models = [call["model"] for call in events(log, "call")]
    assert (models.count("sim/judge"), models.count("sim/plain")) == (25, 25)
    (suite,) = json.loads((project.path / "report.json").read_text())["suites"]
    assert suite["spend"]["calls"] == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bt-teacher", "sim/plain"], "*--bt-teacher names the LM that teaches*add --bt-optimize*"),
        (["--bt-optimize", "--bt-teacher", "gpt"], "*'gpt' names no LM*"),
        (["--bt-judge", "gpt"], "*'gpt' names no LM*"),
        (["--bt-max-calls", "many"], "*--bt-max-calls 'many' is not allowed; give a number of at least 0, 1000 say*"),
        (["--bt-max-tokens", "-1"], "*--bt-max-tokens '-1' is not allowed*"),
        (["--bt-max-cost", "nan"], "*--bt-max-cost 'nan' is not allowed*0.50 say*"),
    ],
)
def test_wrong_options(project: pytest.Pytester, options: list[str], message: str) -> None:
    result = project.runpytest(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
