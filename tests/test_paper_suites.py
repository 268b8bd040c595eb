"""The paper's tasks: splits, missing data, and the whole experiment over real HTTP with a simulated LM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from harness import sources
from harness.data import Splits, load_splits
from harness.errors import DataError, DataMissingError
from harness.suites import Suite, suite_of
from suites import test_gsm8k as gsm8k
from suites import test_hotpotqa as hotpotqa
from suites import test_iris as iris
from tests.http_parity import HttpTuner
from tests.paper_data import knowing_lm, write_jsonl, write_small_data

ROOT = Path(__file__).parent.parent
REAL = os.environ.get("BT_DATA_DIR")
IDS = ["vanilla", "p", "w", "p-p", "w-w", "p-w", "w-p", "p-w-p"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "data"
    write_small_data(made)
    sources.use_data_dir(made)
    yield made
    sources.use_data_dir(None)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No data folder at all."""
    monkeypatch.delenv("BT_DATA_DIR", raising=False)
    sources.use_data_dir(None)
    yield
    sources.use_data_dir(None)


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation), len(splits.test)


# ---- data


def test_small_data_gives_splits_in_the_papers_proportions(folder: Path) -> None:  # noqa: ARG001
    assert sizes(load_splits(gsm8k.gsm8k_splits, "gsm8k")) == (30, 15, 20)
    found = load_splits(hotpotqa.hotpotqa_splits, "hotpotqa")
    assert sizes(found) == (20, 10, 30)
    assert {int(row.id.removeprefix("q")) % 2 for row in found.test} == {1}  # official development questions alone
    assert found.digest == load_splits(hotpotqa.hotpotqa_splits, "hotpotqa").digest


@pytest.mark.skipif(REAL is None, reason="BT_DATA_DIR names no folder with the paper's data")
def test_real_data_gives_the_papers_splits() -> None:
    assert sizes(load_splits(gsm8k.gsm8k_splits, "gsm8k")) == (1000, 500, 1319)
    train, validation, test = sizes(load_splits(hotpotqa.hotpotqa_splits, "hotpotqa"))
    assert (train, validation, test) == (382, 191, 573) or (train, validation, test) == (1000, 500, 1500)


def test_the_hub_is_asked_for_a_pinned_revision(
    monkeypatch: pytest.MonkeyPatch,
    nowhere: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    write_small_data(tmp_path / "data")
    asked: list[tuple[Any, ...]] = []
    local = {"openai/gsm8k": "gsm8k_{}.jsonl", "hotpotqa/hotpot_qa": "hotpotqa_{}.jsonl"}
    rows = sources.read_rows(tmp_path / "data" / "gsm8k_train.jsonl.gz")
    write_jsonl(tmp_path / "gsm8k_train.jsonl", rows)
    write_jsonl(tmp_path / "gsm8k_test.jsonl", sources.read_rows(tmp_path / "data" / "gsm8k_test.jsonl"))
    for split, name in (("train", "train"), ("dev", "validation")):
        found = sources.read_rows(tmp_path / "data" / "hotpotqa_distractor.jsonl.gz")
        write_jsonl(tmp_path / f"hotpotqa_{name}.jsonl", [row for row in found if row["split"] == split])
    load = datasets.load_dataset

    def loaded(repository: str, config: str, *, split: str, revision: str) -> Any:
        asked.append((repository, config, split, revision))
        file = tmp_path / local[repository].format(split)
        return load("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr("datasets.load_dataset", loaded)
    assert sizes(load_splits(gsm8k.gsm8k_splits, "gsm8k")) == (30, 15, 20)
    assert sizes(load_splits(hotpotqa.hotpotqa_splits, "hotpotqa")) == (20, 10, 30)
    assert [(name, config, split) for name, config, split, _ in asked] == [
        ("openai/gsm8k", "main", "train"),
        ("openai/gsm8k", "main", "test"),
        ("hotpotqa/hotpot_qa", "distractor", "train"),
        ("hotpotqa/hotpot_qa", "distractor", "validation"),
    ]
    assert all(len(revision) == 40 for *_, revision in asked)


def test_an_unreachable_hub_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    nowhere: None,  # noqa: ARG001
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route to\nthe hub")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataMissingError, match=r"openai/gsm8k \(main, train\).*no route to the hub.*gsm8k_train.jsonl"):
        load_splits(gsm8k.gsm8k_splits, "gsm8k")
    with pytest.raises(DataMissingError, match="--bt-data-dir=DIR or BT_DATA_DIR"):
        load_splits(hotpotqa.hotpotqa_splits, "hotpotqa")


def test_a_folder_without_the_file_or_with_a_damaged_one(folder: Path) -> None:
    (folder / "gsm8k_test.jsonl").unlink()
    with pytest.raises(DataMissingError, match=r"holds neither gsm8k_test.jsonl nor gsm8k_test.jsonl.gz"):
        load_splits(gsm8k.gsm8k_splits, "gsm8k")
    whole = (folder / "gsm8k_train.jsonl.gz").read_bytes()
    (folder / "gsm8k_train.jsonl.gz").write_bytes(whole[:-200])
    with pytest.raises(DataError, match="damaged"):
        load_splits(gsm8k.gsm8k_splits, "gsm8k")
    row = '{"question": "1", "answer": "#### 1"}\n'
    for line, message in (
        ("[1]", "line 2: list is no row"),
        ('{"question": "1"}', "line 2: there is no field 'answer', only question; every row needs question, answer"),
    ):
        (folder / "gsm8k_train.jsonl").write_text(row + line)
        with pytest.raises(DataError, match=message):
            load_splits(gsm8k.gsm8k_splits, "gsm8k")


SHOWS_FOLDER = """
from harness import module, suite
from harness.errors import DataMissingError
from harness.sources import data_dir

@module
def echo(text: str) -> str:
    \"\"\"Repeat.\"\"\"

def splits():
    raise DataMissingError(f"looked in {data_dir()}")

@suite(program=echo, data=splits)
def test_echo(example, prediction):
    assert prediction
"""


def test_the_option_ranks_before_the_environment_and_that_before_the_ini_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BT_DATA_DIR", raising=False)
    pytester.makepyfile(test_echo=SHOWS_FOLDER)

    def looked(*options: str) -> str:
        lines = pytester.runpytest("-rs", *options).stdout.lines
        return next(line.rpartition("looked in ")[2] for line in lines if "looked in " in line)

    assert looked() == "None"
    pytester.makeini("[pytest]\nbt_data_dir = ini\n")
    assert looked() == str(pytester.path / "ini")
    monkeypatch.setenv("BT_DATA_DIR", "/environment")
    assert looked() == "/environment"
    assert looked("--bt-data-dir=option") == str(pytester.path / "option")
    sources.use_data_dir(None)


# ---- references and needs


@pytest.mark.parametrize(
    ("lm", "expected"),
    [
        ("local/mistralai/Mistral-7B-Instruct-v0.2", (40.3, 33.8, 66.7)),
        ("hosted_vllm/meta-llama/Llama-2-7b-chat-hf", (24.0, 33.3, None)),
        ("local/meta-llama/Meta-Llama-3-8B-Instruct", (72.7, 46.9, 78.7)),
        ("local/nano", (None, None, None)),
    ],
)
def test_references_are_those_of_the_lm_in_use(lm: str, expected: tuple[float | None, ...]) -> None:
    found = [_suite(module) for module in (gsm8k.test_gsm8k, hotpotqa.test_hotpotqa, iris.test_iris)]
    strategies = ("vanilla", "p", "w -> p")
    assert tuple(s.reference(name, lm) for s, name in zip(found, strategies, strict=True)) == expected


def test_references_of_every_lm_name_the_papers_strategies() -> None:
    for suite in map(_suite, (gsm8k.test_gsm8k, hotpotqa.test_hotpotqa)):
        for scores in suite.references.values():
            assert isinstance(scores, dict)
            assert [name.replace(" -> ", "-") for name in scores] == IDS


def _suite(function: Any) -> Suite:
    found = suite_of(function)
    assert found is not None
    return found


# ---- whole runs

CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from harness.lm import finetune
finetune.FineTunedProvider.poll_seconds = 0.05
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("BT_LM", "BT_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setenv("BT_CACHE_DIR", str(pytester.path / "cache"))
    pytester.makeconftest(CONFTEST)
    for name in ("gsm8k", "hotpotqa"):
        text = (ROOT / "suites" / f"test_{name}.py").read_text()
        pytester.makepyfile(**{f"test_{name}": text})
    return pytester


def test_the_whole_experiment_over_http(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    data = project.path / "data"
    write_small_data(data, problems=30, tests=10, questions=15)
    small = ["prompt_train=8", "prompt_validation=12", "candidates=2", "demos=3", "rollouts=2"]
    options = [part for change in small for part in ("--bt-set", change)]
    with HttpTuner(answer=knowing_lm(data)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        options += ["--bt-optimize", "--bt-strategies", "p, w -> p", "--bt-lm", "openai/simulated"]
        options += ["--bt-data-dir", "data", "--bt-json", "out.json"]
        result = project.runpytest_subprocess(*options)
        asked = len(server.requests)
        again = project.runpytest_subprocess(*options)
        assert len(server.requests) == asked  # the second run is answered from the store
    result.assert_outcomes(passed=8)
    again.assert_outcomes(passed=8)
    found = {suite["suite"]: suite for suite in json.loads((project.path / "out.json").read_text())["suites"]}
    for name, (validation, test) in {"gsm8k": (10, 10), "hotpotqa": (5, 15)}.items():
        rows = {row["strategy"]: row["results"][0] for row in found[name]["strategies"]}
        assert set(rows) == {"vanilla", "p", "w -> p"}
        for row in rows.values():
            assert (len(row["validation"]["examples"]), len(row["test"]["examples"])) == (validation, test)
            assert not row["reason"]
        scored = {name: sum(e["score"] for e in row["test"]["examples"]) for name, row in rows.items()}
        assert scored["w -> p"] > scored["vanilla"]  # demos and tuned weights matter to this LM
    demos = [sum(turn["role"] == "assistant" for turn in body["messages"]) for body in server.requests]
    assert max(demos) == 3
    assert server.jobs  # weights were tuned over HTTP, too


def test_suites_that_need_more_are_skipped_before_data_is_looked_for(project: pytest.Pytester) -> None:
    result = project.runpytest("--bt-data-dir", "missing", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*needs an instruction-tuned LM, which local/nano is not*--bt-lm*--bt-all*"])
    assert not (project.path / ".bt").exists()


def test_missing_data_skips_with_the_remedy(project: pytest.Pytester) -> None:
    result = project.runpytest("--bt-data-dir", "missing", "--bt-all", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*missing holds neither gsm8k_train.jsonl nor gsm8k_train.jsonl.gz; put the file*"])
