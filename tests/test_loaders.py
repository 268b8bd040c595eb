"""How a model comes into memory: which loader is chosen, what it may do, and Unsloth where it is installed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UnknownModelError, UsageError
from harness.lm.local import LocalProvider
from harness.lm.request import LMRef, Message, Request, Sampling
from harness.train import loader, unsloth
from harness.train.adapters import Adapters
from harness.train.job import ChatExample, LoraSettings, TrainingJob, TrainingResult
from harness.train.loader import LoadedModel, check_loader, load_with_transformers, loader_named
from harness.train.unsloth import load_with_unsloth
from tests.tiny_llama import make_tiny_llama

ROOT = Path(__file__).parent.parent
EXAMPLES = tuple(
    ChatExample((Message("system", "Name it."), Message("user", f"petal_length: {size}")), f"species: {name}")
    for size, name in [(1.4, "setosa"), (4.5, "versicolor"), (6.0, "virginica")]
)
SETTINGS = LoraSettings(rank=8, alpha=16, learning_rate=1e-2, epochs=30, min_steps=30, batch_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", context=256)


def train(provider: LocalProvider, adapters: Adapters) -> TrainingResult:
    return provider.train(TrainingJob(LMRef("local/tiny"), EXAMPLES, SETTINGS, 0), adapters)


def answers(provider: LocalProvider, adapter: str | None) -> list[str]:
    async def all_of_them() -> list[str]:
        requests = [Request(LMRef("local/tiny", adapter), one.messages, Sampling(max_tokens=12)) for one in EXAMPLES]
        return [done.text for done in await asyncio.gather(*map(provider.complete, requests))]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize(
    ("cuda", "imports", "chosen"),
    [
        (True, True, load_with_unsloth),
        (True, False, load_with_transformers),
        (False, True, load_with_transformers),
        (False, False, load_with_transformers),
    ],
)
def test_auto_is_unsloth_where_there_is_cuda_and_it_imports(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, imports: bool, chosen: Any
) -> None:
    monkeypatch.setattr(loader, "_has_cuda", lambda: cuda)
    monkeypatch.setattr(unsloth, "unsloth_imports", lambda: imports)
    assert loader_named("auto") is chosen


def test_a_named_loader_is_that_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "find_spec", lambda _: object())
    monkeypatch.setattr(loader, "_has_cuda", lambda: False)
    assert loader_named("unsloth") is load_with_unsloth
    quantized = loader_named("unsloth-4bit")
    assert isinstance(quantized, partial)
    assert (quantized.func, quantized.keywords) == (load_with_unsloth, {"four_bit": True})
    monkeypatch.setattr(loader, "_has_cuda", lambda: True)
    assert loader_named("transformers") is load_with_transformers


def test_what_cannot_be_had_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="give auto, unsloth, unsloth-4bit or transformers"):
        check_loader("vllm")
    monkeypatch.setattr(loader, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"not installed; install bt-harness\[gpu\]"):
        check_loader("unsloth")
    assert check_loader("auto") == "auto"


def test_an_unsloth_that_does_not_work_here_names_the_way_out(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def broken() -> Any:
        raise NotImplementedError("Unsloth needs a GPU")

    monkeypatch.setattr(unsloth, "_unsloth", broken)
    assert not unsloth.unsloth_imports()
    with pytest.raises(UnknownModelError, match=r"needs a GPU.*--bt-loader transformers"):
        load_with_unsloth(folder)


def test_quantized_weights_are_another_model(folder: Path) -> None:
    plain = LocalProvider(f"local/{folder}").identity()
    assert LocalProvider(f"local/{folder}", loader="transformers").identity() == plain
    assert LocalProvider(f"local/{folder}", loader="unsloth").identity() == plain
    assert LocalProvider(f"local/{folder}", loader="unsloth-4bit").identity() == f"{plain} 4bit"


SUITE = """
from harness import module, suite

@module
def name(text: str) -> str:
    "Name it."

@suite(program=name, data={"test": [{"text": "a"}]})
def test_it(example, prediction):
    return prediction is not None
"""


def test_the_option_reaches_the_provider(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line before environment before ini file; what is not allowed is a usage error."""
    pytester.makepyfile(SUITE)
    pytester.makeini("[pytest]\nbt_loader = from-ini\n")

    def complaint(*options: str) -> str:
        result = pytester.runpytest(*options)
        return next(line for line in [*result.errlines, *result.outlines] if "from-" in line and "not allowed" in line)

    assert "--bt-loader 'from-ini' is not allowed; give auto, " in complaint()
    monkeypatch.setenv("BT_LOADER", "from-env")
    assert "'from-env'" in complaint()
    assert "'from-line'" in complaint("--bt-loader", "from-line")


def test_a_loader_may_adapt_the_model_and_switch_its_modes(folder: Path, tmp_path: Path) -> None:
    plain = load_with_transformers(folder)
    told: list[str] = []

    def adapt(model: Any, config: Any, name: str) -> Any:
        told.append("adapt")
        return plain.adapt(model, config, name)

    def switch(model: Any, trains: bool) -> None:
        if not told or told[-1] != str(trains):
            told.append(str(trains))
        assert model.base_model.model is plain.model

    def load(folder: Path) -> LoadedModel:  # noqa: ARG001
        return replace(plain, adapt=adapt, switch=switch, optimized=True)

    adapters = Adapters(tmp_path / "adapters")
    provider = LocalProvider(f"local/{folder}", adapters, loader=load)
    adapter = train(provider, adapters).adapter
    assert answers(provider, adapter) == [example.completion for example in EXAMPLES]
    assert train(provider, adapters).adapter == adapter
    provider.close()
    assert told == ["adapt", "False", "True", "False", "True", "False"]


SCRIPT = """
import asyncio, json, sys
from pathlib import Path
from harness.lm.local import LocalProvider
from harness.train.adapters import Adapters
from tests.test_loaders import answers, train

adapters = Adapters(Path(sys.argv[2]))
provider = LocalProvider("local/" + sys.argv[1], adapters, loader="unsloth")
base = answers(provider, None)
result = train(provider, adapters)
again = train(provider, adapters)
print(json.dumps([base, list(result.losses), result.adapter, again.adapter, answers(provider, result.adapter),
                  answers(provider, None)]))
provider.close()
"""


@pytest.mark.skipif(find_spec("unsloth") is None, reason="Unsloth is not installed")
def test_unsloth_trains_what_transformers_and_peft_train(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: Unsloth changes transformers and TRL for good."""
    environment = {**os.environ, "UNSLOTH_FORCE_CPU": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "adapters")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    base, losses, adapter, again, tuned, base_again = json.loads(ran.stdout)
    assert (again, base_again) == (adapter, base)
    assert tuned == [example.completion for example in EXAMPLES]
    adapters = Adapters(tmp_path / "adapters")
    provider = LocalProvider(f"local/{folder}", adapters, loader="transformers")
    try:
        assert answers(provider, None) == base
        assert answers(provider, adapter) == tuned
        assert losses == pytest.approx(list(train(provider, adapters).losses), abs=1e-2)
    finally:
        provider.close()
