"""``python -m harness``: tuned programs shown to people and shipped to servers."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.__main__ import main
from harness.lm.request import LMRef, Sampling
from harness.report.tuned_view import show
from harness.state import Demo, Prompt, State
from harness.train.adapters import Adapters
from harness.tuned import TunedFile, read_tuned, save_tuned
from tests.simulated import write_adapter

EVIL = "[bold red]markup[/] :smile: \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eback"
STATE = State(
    LMRef("hosted_vllm/org/base"),
    {"classify": Prompt(f"Classify. {EVIL}", tuple(Demo({"text": text}, {"label": "b"}) for text in (EVIL, "b")))},
)
TUNED = TunedFile(
    "nowhere.program",
    "p -> w -> p",
    STATE,
    Sampling(0.5, 0.9, 64),
    {"test": {"mean": 0.8125, "examples": 16, "unscored": 0}, "seed": 0},
)


def saved(folder: Path, tuned: TunedFile = TUNED, adapter: bool = False) -> Path:
    adapters = Adapters(folder / "adapters")
    if adapter:
        made = folder / "made"
        made.mkdir()
        write_adapter(made, "weights")
        digest = adapters.adopt(made)
        tuned = replace(tuned, state=replace(tuned.state, lm=replace(tuned.state.lm, adapter=digest)))
    save_tuned(folder / "iris.json", tuned, adapters)
    return folder / "iris.json"


def command_in(readme: Path) -> list[str]:
    return shlex.split(readme.read_text().partition("```sh\n")[2].partition("\n```")[0])


def test_show_reads_like_the_program_and_nothing_in_it_is_obeyed(tmp_path: Path) -> None:
    path, screen = saved(tmp_path), StringIO()
    show(path, Console(file=screen, force_terminal=True, width=100, color_system=None, highlight=False, emoji=False))
    text = screen.getvalue()
    for words in ("nowhere.program", "p → w → p", "hosted_vllm/org/base", "untuned", "81.2 % of 16 examples"):
        assert words in text
    assert "[bold red]markup[/] :smile: red  back" in text
    assert not {"\x1b[31m", "\x1b]", "\u202e"} & {text[i : i + n] for i in range(len(text)) for n in (1, 2, 5)}
    assert "demo 2 of 2" in text


def test_an_adapter_with_the_command_that_serves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = saved(tmp_path, adapter=True), tmp_path / "out"
    assert main(["export", str(path), "--to", str(folder)]) == 0
    written = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert written == {
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "program.json",
        "prompts/classify.json",
    }
    assert set(capsys.readouterr().out.split()) == {str(folder / name) for name in written}
    assert command_in(folder / "README.md") == (
        ["vllm", "serve", "org/base", "--enable-lora", "--max-lora-rank", "8", "--lora-modules", "iris=./adapter"]
    )
    prompt = json.loads((folder / "prompts" / "classify.json").read_text())
    assert prompt["demos"][1] == {"inputs": {"text": "b"}, "outputs": {"label": "b"}}
    loaded = read_tuned(folder / "program.json")
    assert loaded == replace(read_tuned(path), adapter=folder / "adapter")
    assert main(["export", str(path), "--to", str(folder)]) == 1
    assert "is not empty; name a new folder" in capsys.readouterr().err


def test_prompts_are_chats_where_the_program_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped_program.py").write_text(
        'from harness import module\n\n@module\ndef classify(text: str) -> str:\n    """Classify."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = State(LMRef("openai/m"), {"classify": Prompt(None, (Demo({"text": "b"}, {"answer": "x"}),))})
    path = saved(tmp_path, replace(TUNED, program="shipped_program.classify", state=state))
    assert main(["export", str(path), "--to", str(tmp_path / "out")]) == 0
    prompt = json.loads((tmp_path / "out" / "prompts" / "classify.json").read_text())
    assert [turn["role"] for turn in prompt["messages"]] == ["system", "user", "assistant"]
    assert prompt["messages"][1:] == [
        {"role": "user", "content": "text: b"},
        {"role": "assistant", "content": "answer: x"},
    ]
    assert (prompt["inputs"], prompt["reply"]) == (["text"], ["answer"])
    assert "there is nothing to serve" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("structured", [False, True])
def test_the_readme_says_what_an_answer_looks_like(tmp_path: Path, structured: bool) -> None:
    path = saved(tmp_path, replace(TUNED, sampling=replace(TUNED.sampling, structured=structured)))
    assert main(["export", str(path), "--to", str(tmp_path / "out")]) == 0
    readme = (tmp_path / "out" / "README.md").read_text()
    assert ("the answer is a JSON object with each field of `reply`" in readme) == structured
    assert ("the answer has a line `name: value` for each field of `reply`" in readme) != structured


CLASSIFY = "from harness import module\n\n\n@module\ndef classify(text: str{more}) -> str:\n    pass\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os\nos.environ['NOT_SET_ANYWHERE']\n", r"module broken_\w+, .* fails when .*KeyError.*NOT_SET"),
        (CLASSIFY.format(more=", extra: int"), r"demos of classify in broken_\w+\.classify do not fit .*extra"),
        (CLASSIFY.format(more="").replace("text: str", "text: int"), r"demos of classify .*ValidationError"),
    ],
)
def test_a_program_whose_code_fails_or_changed_leaves_no_half_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, message: str
) -> None:
    name = f"broken_{len(code)}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    path = saved(tmp_path, replace(TUNED, program=f"{name}.classify"), adapter=True)
    assert main(["export", str(path), "--to", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("TunedProgramError: ")
    assert re.search(message, error, re.DOTALL)
    assert not (tmp_path / "out").exists()


def test_a_providers_own_weights_are_called_by_their_name(tmp_path: Path) -> None:
    tuned = replace(TUNED, state=State(LMRef("openai/base", "ft:base:org::1")))
    path = saved(tmp_path, tuned)
    assert read_tuned(path).state.lm.adapter == "ft:base:org::1"
    assert main(["export", str(path), "--to", str(tmp_path / "out")]) == 0
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "keeps the tuned weights, under the name `ft:base:org::1`" in readme
    assert 'model="openai/ft:base:org::1"' in readme


def test_a_suites_parameters_are_quoted_for_the_shell_and_for_python(tmp_path: Path) -> None:
    path = saved(tmp_path, adapter=True).rename(tmp_path / 'capitals[hard one, "é"].json')
    assert main(["export", str(path), "--to", str(tmp_path / "out")]) == 0
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert command_in(tmp_path / "out" / "README.md")[-1] == 'capitals[hard one, "é"]=./adapter'
    (model,) = re.findall(r"completion\(model=(\".*\"), api_base", readme)
    assert ast.literal_eval(model) == 'hosted_vllm/capitals[hard one, "é"]'


def test_what_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, adapter=True)
    assert main(["export", str(path), "--to", str(tmp_path / "out"), "--merge"]) == 1
    assert "no adapter of a local/... LM, so there is nothing to merge" in capsys.readouterr().err
    (weights,) = (tmp_path / "iris.adapter").glob("*/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["export", str(path), "--to", str(tmp_path / "out")]) == 1
    assert "AdapterError" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "none.json")]) == 1
    assert "TunedProgramError" in capsys.readouterr().err


def test_from_the_command_line(tmp_path: Path) -> None:
    path = saved(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "harness", "show", str(path)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "nowhere.program" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_without_unicode_shows_the_rest(tmp_path: Path, encoding: str) -> None:
    path, folder = saved(tmp_path), tmp_path / "ö→"
    for command, words in (["show", str(path)], "p ? w ? p"), (["export", str(path), "--to", str(folder)], "README.md"):
        done = subprocess.run(
            [sys.executable, "-m", "harness", *command],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert not done.returncode, done.stderr
        assert words.encode() in done.stdout


def test_exported_programs_answer_as_before_wherever_their_folder_goes(tmp_path: Path) -> None:
    from tests.test_local_engine import make_adapter
    from tests.tiny_llama import make_tiny_llama

    base = make_tiny_llama(tmp_path / "tiny")
    adapters = Adapters(tmp_path / "adapters")
    tuned = replace(
        TUNED,
        program="shipped_program.answer",
        state=State(LMRef(f"local/{base}", make_adapter(base, adapters, 1)), {"answer": Prompt("Say it.")}),
        sampling=Sampling(0.0, max_tokens=12),
    )
    program = tmp_path / "saved" / "iris.json"
    save_tuned(program, tuned, adapters)
    (tmp_path / "shipped_program.py").write_text(
        'from harness import module\n\n@module\ndef answer(text: str) -> str:\n    """Answer."""\n'
    )

    def answers(folder: Path, *programs: Path) -> list[list[str]]:
        code = (
            "import harness, json, shipped_program, sys\n"
            "loaded = [harness.load(path, shipped_program.answer) for path in sys.argv[1:]]\n"
            "print(json.dumps([[tuned(text) for text in ('setosa', 'petal')] for tuned in loaded]))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
        command = [sys.executable, "-c", code, *map(str, programs)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        assert not done.returncode, done.stderr
        found: list[list[str]] = json.loads(done.stdout)
        return found

    assert main(["export", str(program), "--to", str(tmp_path / "a")]) == 0
    assert main(["export", str(program), "--to", str(tmp_path / "b"), "--merge"]) == 0
    before = answers(tmp_path, program)
    shutil.rmtree(program.parent)
    (tmp_path / "a").rename(tmp_path / "moved")
    merged = (tmp_path / "b").rename(tmp_path / "merged")
    # A merged model is found from its folder.
    assert answers(merged, tmp_path / "moved" / "program.json", merged / "program.json") == 2 * before


def test_merged_weights_answer_like_base_and_adapter_together(tmp_path: Path) -> None:
    from harness.lm.local import LocalProvider
    from harness.lm.request import Message, Request
    from harness.train.job import ChatExample, LoraSettings, TrainingJob
    from tests.tiny_llama import make_tiny_llama

    messages = (Message("system", "Reply with:\nanswer"), Message("user", "number: 7"))
    examples = tuple(ChatExample(messages, "answer: odd") for _ in range(4))
    adapters = Adapters(tmp_path / "adapters")
    base = f"local/{make_tiny_llama(tmp_path / 'tiny')}"
    provider = LocalProvider(base, adapters)
    settings = LoraSettings(rank=4, alpha=8, epochs=8, min_steps=0, learning_rate=1e-2)
    result = provider.train(TrainingJob(LMRef(base), examples, settings, 0), adapters)
    state = State(LMRef(base, result.adapter))
    save_tuned(tmp_path / "odd.json", replace(TUNED, state=state), adapters)
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "odd.json"), "--to", str(out), "--merge"]) == 0
    assert command_in(out / "README.md") == ["vllm", "serve", "./model", "--served-model-name", "odd"]
    assert not (out / "adapter").exists()
    import asyncio

    program = read_tuned(out / "program.json")
    assert program == replace(read_tuned(tmp_path / "odd.json"), state=State(LMRef("local/./model")), adapter=None)
    merged = LocalProvider(f"local/{out / 'model'}", adapters)
    greedy = Sampling(0.0, max_tokens=12)
    try:
        for number in range(3):
            turns = (*messages[:1], Message("user", f"number: {number}"))
            both = asyncio.run(provider.complete(Request(state.lm, turns, greedy)))
            one = asyncio.run(merged.complete(Request(LMRef(f"local/{out / 'model'}"), turns, greedy)))
            assert one.text == both.text
    finally:
        merged.close()
        provider.close()
