"""Fine-tuning at a provider: one job is paid for, whatever happens to the process that waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from harness.errors import AuthenticationError, NothingToTrainError, TrainingError, UsageError
from harness.lm.endpoint import Endpoint, load_litellm
from harness.lm.request import Completion, LMRef, Message, Request
from harness.lm.retry import RetryPolicy
from harness.observe import NullObserver
from harness.runtime import Runtime
from harness.train.job import ChatExample, LoraSettings, Trained, TrainingJob
from tests.http_parity import SMALL_SUITE, HttpTuner

# Litellm defines a model at its first use that pydantic warns of; the plugin's own runs leave such warnings out.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*ReadOnly:UserWarning"),
    # The SDK behind litellm leaves its last connection to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY = "sk-planted-0123456789abcdef"
EXAMPLES = (
    ChatExample((Message("system", "Say."), Message("user", "number: 1")), "answer: odd"),
    ChatExample((Message("system", "Say."), Message("user", "number: 2")), "answer: even"),
)


@pytest.fixture(scope="module", autouse=True)
def _litellm() -> None:
    """Imported before pytester takes note of what was: its runs inside this process take back the rest."""
    load_litellm()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpTuner]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "BT_LM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BT_TEST_KEY", KEY)
    monkeypatch.setattr("harness.lm.finetune.FineTunedProvider.poll_seconds", 0.01)
    monkeypatch.setattr("harness.lm.finetune.FineTunedProvider.retry", RetryPolicy(attempts=4, base=0.001))
    with HttpTuner() as running:
        yield running


def job(adapter: str | None = None, examples: tuple[ChatExample, ...] = EXAMPLES, epochs: float = 2.6) -> TrainingJob:
    return TrainingJob(LMRef("openai/base", adapter), examples, LoraSettings(epochs=epochs, batch_size=4), seed=7)


def opened(server: HttpTuner, folder: Path) -> Runtime:
    endpoint = Endpoint(server.base_url, "BT_TEST_KEY", headers=(("X-Team", "blue"),), timeout=10)
    return Runtime.open(folder, endpoints={"openai/*": endpoint})


def train(server: HttpTuner, folder: Path, what: TrainingJob | None = None) -> Trained:
    with opened(server, folder) as runtime:
        return runtime.train(what or job(), "w", NullObserver())


def test_a_job_from_upload_to_the_tuned_model(server: HttpTuner, tmp_path: Path) -> None:
    found = train(server, tmp_path)
    assert not found.cached
    assert (found.result.adapter, found.result.examples, found.result.tokens) == ("ft:base:org::1", 2, 1234)
    assert found.result.seconds == 60
    lines = [json.loads(line) for line in server.files["file-1"].splitlines()]
    assert lines[1]["messages"] == [
        {"role": "system", "content": "Say."},
        {"role": "user", "content": "number: 2"},
        {"role": "assistant", "content": "answer: even"},
    ]
    started = server.jobs["ftjob-1"]
    assert (started["model"], started["seed"]) == ("base", 7)
    assert started["hyperparameters"] == {"n_epochs": 3, "batch_size": 4}
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert {headers["x-team"] for headers in server.headers} == {"blue"}
    assert train(server, tmp_path).cached
    assert (len(server.files), len(server.jobs)) == (1, 1)


def test_the_password_of_a_base_url_is_sent_with_every_request(server: HttpTuner, tmp_path: Path) -> None:
    endpoint = Endpoint(server.base_url.replace("127", "user:password@127"), timeout=10)
    with Runtime.open(tmp_path, endpoints={"openai/*": endpoint}) as runtime:
        runtime.train(job(), "w", NullObserver())
    assert {headers["authorization"] for headers in server.headers} == {"Basic dXNlcjpwYXNzd29yZA=="}


def test_the_tuned_model_is_called_by_its_name_and_tuned_further(server: HttpTuner, tmp_path: Path) -> None:
    adapter = train(server, tmp_path).result.adapter
    with opened(server, tmp_path) as runtime:
        asked = Request(LMRef("openai/base", adapter), (Message("user", "number: 4"),))
        assert isinstance(runtime.client.call(asked).completion, Completion)
        assert server.requests[-1]["model"] == adapter
        assert runtime.train(job(adapter), "w", NullObserver()).result.adapter == "ft:ft:base:org::1:org::2"


@pytest.mark.parametrize("path", ["POST /v1/files", "POST /v1/fine_tuning/jobs", "GET /v1/fine_tuning/jobs/ftjob-1"])
@pytest.mark.parametrize("status", [429, 503])
def test_failures_that_pass_are_waited_for(server: HttpTuner, tmp_path: Path, path: str, status: int) -> None:
    refused = []

    def refuse(asked: str) -> int | None:
        if asked == path and len(refused) < 2:
            refused.append(asked)
            return status
        return None

    server.refuse = refuse
    assert train(server, tmp_path).result.adapter == "ft:base:org::1"
    assert (len(refused), len(server.jobs)) == (2, 1)


@pytest.mark.parametrize(
    ("path", "status", "error", "message"),
    [
        ("POST /v1/files", 401, AuthenticationError, "refused the key"),
        ("POST /v1/files", 404, TrainingError, "does not tune it.*offers fine-tuning"),
        ("POST /v1/fine_tuning/jobs", 400, TrainingError, "does not tune it"),
        ("GET /v1/fine_tuning/jobs/ftjob-1", 503, TrainingError, "cannot be asked about its job.*Run again"),
    ],
)
def test_failures_that_stay_are_named_and_hold_no_key(
    server: HttpTuner,
    tmp_path: Path,
    path: str,
    status: int,
    error: type[Exception],
    message: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.refuse = lambda asked: status if asked == path else None
    with pytest.raises(error, match=f"(?s)openai/base at 127.*{message}") as caught:
        train(server, tmp_path)
    shown = capfd.readouterr()
    assert KEY not in f"{caught.value!r} {caplog.text} {shown.out} {shown.err}"
    assert caught.value.__cause__ is caught.value.__context__ is None
    server.refuse = lambda _: None
    assert train(server, tmp_path).result.adapter == "ft:base:org::1"
    assert len(server.jobs) == 1


@pytest.mark.usefixtures("server")
def test_a_job_whose_start_got_no_answer_is_found(tmp_path: Path) -> None:
    """The provider has heard the request and charges for the job, and the process goes on."""

    class Lossy(HttpTuner):
        async def _create(self, request: web.Request) -> web.Response:
            answer = await super()._create(request)
            if len(self.jobs) == 1:
                assert request.transport is not None
                request.transport.abort()
            return answer

    with Lossy() as lossy:
        assert train(lossy, tmp_path).result.adapter == "ft:base:org::1"
        assert (len(lossy.files), len(lossy.jobs)) == (1, 1)


@pytest.mark.usefixtures("server")
def test_a_key_in_a_variable_of_any_name_is_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Litellm logs what a server says, and this one repeats the key."""

    class Telling(HttpTuner):
        async def _create(self, request: web.Request) -> web.Response:
            key = request.headers["Authorization"].removeprefix("Bearer ")
            return web.json_response({"error": {"message": f"user {key} may not tune"}}, status=400)

    monkeypatch.setenv("GATEWAY_1", secret := "planted-9876543210")
    with Telling() as telling:
        endpoint = Endpoint(telling.base_url, "GATEWAY_1", timeout=10)
        with (
            Runtime.open(tmp_path, endpoints={"openai/*": endpoint}) as runtime,
            pytest.raises(TrainingError, match=r"user \*\*\* may not"),
        ):
            runtime.train(job(), "w", NullObserver())
    assert "user *** may not" in caplog.text
    assert secret not in caplog.text


def test_a_failed_job_says_why_and_the_next_run_starts_another(server: HttpTuner, tmp_path: Path) -> None:
    server.ends = "failed"
    with pytest.raises(TrainingError, match=r"ftjob-1 .* failed: the file has too few examples"):
        train(server, tmp_path)
    server.ends = "succeeded"
    assert train(server, tmp_path).result.adapter == "ft:base:org::2"


def test_what_cannot_be_tuned(server: HttpTuner, tmp_path: Path) -> None:
    with pytest.raises(NothingToTrainError):
        train(server, tmp_path, job(examples=()))
    with Runtime.open(None) as runtime, pytest.raises(UsageError, match="name a store"):
        runtime.train(job(), "w", NullObserver())


WAITER = """
import sys
from pathlib import Path
from tests import test_finetune
from harness.lm.finetune import FineTunedProvider
FineTunedProvider.poll_seconds = 0.05
class Server:
    base_url = sys.argv[1]
test_finetune.train(Server, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("moment", ["polling", "starting"])
def test_killed_while_it_waits_it_goes_on_with_the_same_job(server: HttpTuner, tmp_path: Path, moment: str) -> None:
    server.polls = 10**9
    command = [sys.executable, "-c", WAITER, server.base_url, str(tmp_path)]

    first = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
    if moment == "starting":  # the provider has the job, and nobody was told of it
        server.on_create = lambda: os.kill(first.pid, signal.SIGKILL)
    until(lambda: len(server.looks) >= 2 or first.poll() is not None)
    first.kill()
    assert first.wait(10) == -signal.SIGKILL
    server.on_create = lambda: None
    server.polls = 1
    assert train(server, tmp_path).result.adapter == "ft:base:org::1"
    assert (len(server.files), len(server.jobs)) == (1, 1)


def test_the_whole_loop_through_a_provider(
    server: HttpTuner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_parity=SMALL_SUITE.replace("THRESHOLD", "0.0"))
    pytester.makepyprojecttoml(
        f'[tool.bt-harness.lm."openai/*"]\nbase_url = "{server.base_url}"\napi_key_env = "BT_TEST_KEY"\n'
    )
    monkeypatch.setenv("BT_LM", "openai/base")
    options = ["--bt-optimize", "--bt-strategies", "p -> w -> p, w -> w", "--bt-json", "report.json"]
    result = pytester.runpytest(*options, "--bt-save", "tuned")
    result.assert_outcomes(passed=4)
    (suite,) = json.loads((pytester.path / "report.json").read_text())["suites"]
    states = {row["strategy"]: row["results"][0]["state"] for row in suite["strategies"]}
    assert states["p -> w -> p"]["lm"]["adapter"].startswith("ft:base:org::")
    assert states["w -> w"]["lm"]["adapter"].startswith("ft:ft:base:org::")
    assert len(server.jobs) == 3
    saved = json.loads((pytester.path / "tuned" / "parity.json").read_text())
    assert "adapter" not in saved
    assert not list((pytester.path / "tuned").glob("*.adapter"))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
