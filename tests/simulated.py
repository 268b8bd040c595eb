"""A simulated LM for tests of the harness: fast, deterministic, and better with demos and with training.

It answers ``number: 7`` with ``answer: odd``, wrongly at times: how often depends on the demos in the prompt and
on the adapter. Everything it is asked is logged, one JSON line each, so that tests count at the engine. It says
nothing about the quality of any method.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

# pytester takes back what a run inside this process imported, which extension modules do not survive.
import harness.store  # noqa: F401 -- sqlalchemy's
from harness.errors import ContentFilterError
from harness.lm import providers
from harness.lm.endpoint import load_litellm
from harness.lm.request import Completion, Request, Usage, digest_of
from harness.train import adapters as adapter_files
from harness.train.adapters import Adapters
from harness.train.job import Progress, TrainingJob, TrainingResult

LOG = "BT_SIMULATED_LOG"
KILL_AT = "BT_SIMULATED_KILL_AT"
"""Environment: where to log, and at which event of this process (``call:17``, ``step:2``) to die by SIGKILL."""

STEPS = 3

CONFTEST = "from tests import simulated\nsimulated.install()\n"
"""The conftest.py of a project that uses it."""

SUITE = '''
from typing import Literal
from harness import module, suite

@module
def parity(number: int) -> Literal["even", "odd"]:
    """Say whether the number is even or odd."""

def rows(start, count):
    return [{"number": n, "parity": "odd" if n % 2 else "even"} for n in range(start, start + count)]

def splits():
    return {"train": rows(0, 30), "validation": rows(100, 20), "test": rows(200, 25)}

@suite(program=parity, data=splits, threshold=THRESHOLD, settings=dict(
    prompt_train=12, prompt_validation=10, candidates=4, demos=4, rollouts=3))
def test_parity(example, prediction):
    assert prediction == example.parity
'''

load_litellm()  # it cannot be imported a second time either, with warnings as errors
_events: Counter[str] = Counter()


class SimulatedProvider:
    """``sim/plain`` learns; ``sim/never`` is always wrong; ``sim/faulty`` fails, or babbles, on some numbers.

    ``sim/strained`` fails on the validation examples once it is shown demos, ``sim/seven`` is right on seven numbers
    of ten, ``sim/patchy`` always once it is tuned and never before with seed 1.
    """

    concurrency = 8

    def __init__(self, model: str) -> None:
        self.model = model

    def identity(self) -> str:
        return self.model

    async def complete(self, request: Request) -> Completion:
        event(
            "call",
            model=self.model,
            adapter=request.lm.adapter,
            digest=request.digest,
            messages=[m.content for m in request.messages],
        )
        number = int(request.messages[-1].content.removeprefix("number: "))
        right = "odd" if number % 2 else "even"
        wrong = "even" if number % 2 else "odd"
        demos = sum(message.role == "assistant" for message in request.messages)
        skill = 0.35 + 0.1 * min(demos, 4) + (0.15 if request.lm.adapter else 0.0)
        if self.model == "sim/faulty" and number % 5 == 0:
            raise ContentFilterError(f"{self.model} does not speak of {number}")
        if self.model == "sim/faulty" and number % 5 == 1:
            return Completion("well, [bold]who[/bold] knows?", Usage(10, 5))
        if self.model == "sim/strained" and demos and 100 <= number < 200:
            raise ContentFilterError(f"{self.model} does not speak of {number}")
        if self.model == "sim/never":
            skill = 0.0
        if self.model == "sim/seven":
            skill = float(number % 10 < 7)
        if self.model == "sim/patchy":
            skill = (
                1.0
                if request.lm.adapter
                else skill * (number >= 100 or request.seed == 0 < request.sampling.temperature)
            )
        luck = int(hashlib.sha256(request.digest.encode()).hexdigest()[:8], 16) / 2**32
        return Completion(f"answer: {right if luck < skill else wrong}", Usage(10 + 5 * demos, 3))

    def train(self, job: TrainingJob, adapters: Adapters, progress: Progress | None = None) -> TrainingResult:
        event(
            "training",
            adapter=job.lm.adapter,
            examples=[[*(m.content for m in e.messages), e.completion] for e in job.examples],
        )
        for step in range(1, STEPS + 1):
            event("step")
            if progress is not None:
                progress(step, STEPS, 1 / step)
        with tempfile.TemporaryDirectory() as folder:
            write_adapter(Path(folder), digest_of([job.digest(self.model)]))
            digest = adapters.adopt(Path(folder))
        event("trained", adapter=digest)
        return TrainingResult(digest, STEPS, len(job.examples), 10, (1.0, 0.5), 1.5)

    def close(self) -> None:
        pass


def event(kind: str, **values: Any) -> None:
    """Log what happens, or die right before it."""
    _events[kind] += 1
    if os.environ.get(KILL_AT) == f"{kind}:{_events[kind]}":
        os.kill(os.getpid(), signal.SIGKILL)
    if LOG in os.environ:
        line = json.dumps({"kind": kind, **values}) + "\n"
        descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def events(log: Path, kind: str) -> list[dict[str, Any]]:
    """The logged events of one kind."""
    if not log.exists():
        return []
    return [value for value in map(json.loads, log.read_text().splitlines()) if value["kind"] == kind]


def figures(path: Path) -> Any:
    """Every score, state and note of a report; not how much of it was had from the store."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(item) for key, item in value.items() if key != "spend"}
        return [cleaned(item) for item in value] if isinstance(value, list) else value

    return cleaned(json.loads(path.read_text()))


def write_adapter(folder: Path, content: str) -> None:
    """A well-formed LoRA adapter with some bytes of content."""
    data = content.encode()
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def install() -> None:
    """Make ``sim/...`` model strings known, and let the writing of an adapter's files be an event."""
    providers.register("sim", lambda model, _adapters: SimulatedProvider(model))
    write = adapter_files._write_synced

    def watched(path: Path, data: bytes) -> None:
        event("file", name=path.name)
        write(path, data)

    if write.__name__ != "watched":
        adapter_files._write_synced = watched
