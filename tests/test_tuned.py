"""Tuned programs as files and as functions."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import module
from harness import tuned as tuned_files
from harness.context import default_runtime
from harness.errors import TunedProgramError
from harness.items import file_name
from harness.lm import providers
from harness.lm.request import Completion, LMRef, Request, Sampling
from harness.prompt import demo_turns
from harness.state import Demo, Prompt, State
from harness.train.adapters import Adapters
from harness.tuned import Tuned, TunedFile, read_tuned, require_program, save_tuned
from tests.simulated import write_adapter
from tests.test_evaluate import Object, SimulatedClient, ask, ask_async, coroutine_function, returns_a_coroutine


def tuned(program: Any) -> Tuned[..., Any]:
    client: Any = SimulatedClient()
    return Tuned(program, State(LMRef("tuned")), Sampling(), client)


@pytest.mark.parametrize("program", [ask_async, coroutine_function, returns_a_coroutine, Object()])
def test_what_is_awaited_runs_with_the_state(program: Any) -> None:
    assert asyncio.run(tuned(program)(["a"])).startswith("tuned notes:")


def test_what_is_not_awaited_does_too() -> None:
    assert tuned(ask)(["a"]).startswith("tuned notes:")


TUNED = TunedFile("tests.test_evaluate.ask", "w", State(LMRef("local/nano")), Sampling(), {})


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path / "store")


def adapted(adapters: Adapters, content: str) -> TunedFile:
    folder = adapters.folder.with_name(f"made-{content}")
    folder.mkdir()
    write_adapter(folder, content)
    return replace(TUNED, state=State(LMRef("local/nano", adapters.adopt(folder))))


def loadable(path: Path) -> str | None:
    """The digest of the weights that the file names, which are there and are what it says."""
    found = read_tuned(path)
    if found.adapter is not None and found.state.lm.adapter is not None:
        Adapters(path.parent / "elsewhere").import_(found.adapter, found.state.lm.adapter)
    return found.state.lm.adapter


@pytest.mark.parametrize("layout", ["now", "once"])
def test_the_program_that_was_there_can_be_loaded_until_the_new_one_can(
    tmp_path: Path, adapters: Adapters, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    one, two, path = adapted(adapters, "one"), adapted(adapters, "two"), tmp_path / "tuned" / "s.json"
    save_tuned(path, one, adapters)
    if layout == "once":  # the weights in the folder itself
        folder = path.with_name("s.adapter")
        for file in (folder / str(one.state.lm.adapter)).iterdir():
            file.rename(folder / file.name)
        path.write_text(json.dumps({**json.loads(path.read_text()), "adapter": "s.adapter"}))
    with monkeypatch.context() as patch:
        patch.setattr(tuned_files.tempfile, "mkstemp", lambda **_: 1 / 0)  # dies between the weights and the file
        with pytest.raises(ZeroDivisionError):
            save_tuned(path, two, adapters)
    assert loadable(path) == one.state.lm.adapter
    with monkeypatch.context() as patch:
        patch.setattr(tuned_files, "_remove_others", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_tuned(path, two, adapters)
    assert loadable(path) == two.state.lm.adapter
    save_tuned(path, two, adapters)
    assert loadable(path) == two.state.lm.adapter
    assert [file.name for file in path.with_name("s.adapter").iterdir()] == [two.state.lm.adapter]


def test_weights_that_no_program_names_go_and_other_files_stay(tmp_path: Path, adapters: Adapters) -> None:
    path = tmp_path / "s.json"
    save_tuned(path, adapted(adapters, "one"), adapters)
    save_tuned(tmp_path / "other.json", adapted(adapters, "other"), adapters)
    path.with_name("s.adapter").joinpath("notes.txt").touch()
    save_tuned(path, TUNED, adapters)
    assert [file.name for file in path.with_name("s.adapter").iterdir()] == ["notes.txt"]
    assert loadable(path) is None
    assert loadable(tmp_path / "other.json") is not None


def test_a_place_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path, adapters: Adapters) -> None:
    (tmp_path / "taken").touch()
    for tuned_program in (TUNED, adapted(adapters, "one")):
        with pytest.raises(TunedProgramError, match=r"taken/s\.json cannot be written .*--bt-save=DIR"):
            save_tuned(tmp_path / "taken" / "s.json", tuned_program, adapters)


def test_what_json_has_no_word_for_is_read_back(tmp_path: Path, adapters: Adapters) -> None:
    demo = Demo({"x": [math.nan, 1.0]}, {"answer": -math.inf})
    state = State(LMRef("local/nano"), {"ask": Prompt(None, (demo,))})
    scores = {"test": {"mean": math.nan, "examples": 3, "unscored": 3}, "seed": 0}
    save_tuned(tmp_path / "s.json", replace(TUNED, state=state, scores=scores), adapters)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    body = json.loads((tmp_path / "s.json").read_text(), parse_constant=refuse)
    assert body["scores"] == {"test": {"mean": None, "examples": 3, "unscored": 3}, "seed": 0}
    found = read_tuned(tmp_path / "s.json")
    assert math.isnan(found.scores["test"]["mean"])

    @module
    def ask(x: list[float]) -> float:
        """Answer."""

    shown = [turn.content for turn in demo_turns(ask.signature, found.state.prompt("ask").demos[0])]
    assert shown == [turn.content for turn in demo_turns(ask.signature, demo)]


def test_the_file_of_a_suite_has_a_name_that_every_system_takes() -> None:
    assert file_name("capitals[hard one]") == "capitals[hard one].json"
    names = [f"capitals[{mark}]" for mark in '<>:"/\\|?*\n'] + ["capitals[_]", "x" * 201]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert not set("".join(files)) & set('<>:"/\\|?*\n')
    assert max(map(len, files)) < 60


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("program",), None, "program: .*valid string"),
        (("state", "lm", "adapter"), 5, r"state\.lm\.adapter"),
        (
            ("state", "prompts"),
            {"ask": {"instruction": ["Say it."], "demos": []}},
            r"state\.prompts\.ask\.instruction",
        ),
        (("sampling", "temperature"), "0.5", r"sampling\.temperature: .*valid number"),
        (("sampling", "max_tokens"), None, r"sampling\.max_tokens"),
        (("scores",), {"test": {"mean": "0.5", "examples": 3}}, r"scores\.test"),
        (("scores",), {"test": {"mean": 0.5}}, r"scores\.test"),
    ],
)
def test_a_file_that_was_edited_wrongly_says_where(
    tmp_path: Path, adapters: Adapters, place: tuple[str, ...], value: Any, message: str
) -> None:
    path = tmp_path / "s.json"
    save_tuned(path, TUNED, adapters)
    body = part = json.loads(path.read_text())
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    path.write_text(json.dumps(body))
    with pytest.raises(TunedProgramError, match=rf"s\.json lacks a part of .* \({message}.*\); mend that"):
        read_tuned(path)


class Named:
    """An LM that answers with its name."""

    concurrency = 1

    def __init__(self, model: str) -> None:
        self._model, self.closed = model, False

    def identity(self) -> str:
        return self._model

    async def complete(self, _request: Request) -> Completion:
        return Completion(f"answer: {self._model}")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def lms(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Named]]:
    """The LMs that were made; what a test configures ends with it."""
    made: list[Named] = []

    def make(model: str, _adapters: object) -> Named:
        made.append(Named(model))
        return made[-1]

    monkeypatch.setitem(providers._MAKERS, "named", make)
    yield made
    harness.configure()
    default_runtime().close()


def test_a_loaded_program_outlives_the_next_configure(tmp_path: Path, adapters: Adapters, lms: list[Named]) -> None:
    path = tmp_path / "s.json"
    save_tuned(path, replace(TUNED, state=State(LMRef("named/tuned"))), adapters)
    harness.configure("named/one")
    loaded = harness.load(path, ask)
    assert (loaded(["a"]), ask(["a"])) == ("named/tuned", "named/one")
    harness.configure("named/two")
    assert (loaded(["b"]), ask(["b"])) == ("named/tuned", "named/two")
    assert not any(lm.closed for lm in lms)
    del loaded
    gc.collect()
    harness.configure("named/three")
    assert all(lm.closed for lm in lms)


NOW, GONE = {"notes": ["a"]}, {"note": "a"}


@pytest.mark.parametrize(
    ("program", "name", "demo", "message"),
    [
        (ask, "ask", Demo(GONE, {"answer": "x"}), "signature of the module 'ask': demo 1 has no 'notes' among its inp"),
        (ask, "ask", Demo(NOW, {"reply": "x"}), "demo 1 has no 'answer' among its outputs"),
        (ask, "ask", Demo({"notes": 5}, {"answer": "x"}), "demo 1 does not fit"),
        (ask, "asked", Demo(NOW, {"answer": "x"}), "'asked': the module is named 'ask' now"),
        (coroutine_function, "ask", Demo(GONE, {"answer": "x"}), r"no 'notes' .*--bt-save=DIR"),
    ],
)
def test_demos_of_another_signature(
    tmp_path: Path, adapters: Adapters, program: Any, name: str, demo: Demo, message: str
) -> None:
    state = State(LMRef("m"), {name: Prompt(None, (demo,))})
    stale = replace(TUNED, program=f"m.{program.__name__}", state=state)
    save_tuned(tmp_path / "s.json", stale, adapters)
    with pytest.raises(TunedProgramError, match=message):
        harness.load(tmp_path / "s.json", program)


def test_demos_of_modules_that_cannot_be_known_and_of_those_as_they_are() -> None:
    fits = Prompt("Do.", (Demo(NOW, {"answer": "x", "reasoning": "y"}),))
    require_program(replace(TUNED, state=State(LMRef("m"), {"ask": fits})), ask, Path("s.json"))
    state = State(LMRef("m"), {"ask": fits, "elsewhere": Prompt(None, (Demo(GONE, {}),))})
    require_program(replace(TUNED, program="m.coroutine_function", state=state), coroutine_function, Path("s.json"))


def test_a_renamed_module_of_several_is_warned_of(tmp_path: Path, adapters: Adapters) -> None:
    (tmp_path / "hops.py").write_text(
        "from harness import module\n\n\n@module\ndef query(question: str) -> str: ...\n\n\n"
        "@module\ndef reply(question: str) -> str: ...\n\n\ndef hops(question): return reply(query(question))\n"
    )
    program = runpy.run_path(str(tmp_path / "hops.py"))["hops"]
    prompt, path = Prompt(None, (Demo({"question": "x"}, {"answer": "y"}),)), tmp_path / "s.json"
    stale = replace(TUNED, program="m.hops", state=State(LMRef("m"), {"query": prompt, "respond": prompt}))
    save_tuned(path, stale, adapters)
    named = r"s\.json has a prompt for the module 'respond', .*\.hops .*'reply' has no.*@module\(name='respond'\)"
    with pytest.warns(UserWarning, match=named) as caught:
        harness.load(path, program)
    assert caught[0].filename == __file__
    save_tuned(path, replace(stale, state=State(LMRef("m"), {"query": prompt})), adapters)
    harness.load(path, program)  # without a prompt for it there is nothing to lose


def test_a_demo_that_is_none(tmp_path: Path, adapters: Adapters) -> None:
    path = tmp_path / "s.json"
    save_tuned(path, TUNED, adapters)
    body = json.loads(path.read_text())
    body["state"]["prompts"] = {"ask": {"instruction": None, "demos": [{"inputs": "abc", "outputs": {}}]}}
    path.write_text(json.dumps(body))
    with pytest.raises(TunedProgramError, match="lacks a part of a tuned program"):
        read_tuned(path)
