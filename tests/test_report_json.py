"""The JSON report: written-down schema, round trip, determinism, atomic writing."""

from __future__ import annotations

import json
import math
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from harness.report.json_report import json_report, json_text, read_json, write_json
from harness.report.schema import Report
from harness.results import GateResult, Spend, StepResult, StrategyResult, SuiteRun
from tests.report_values import evaluation, iris, with_gate

FIELDS = {
    "": "confidence schema suites",
    "suites": "gates lm seeds spend strategies suite",
    "strategies": "chosen reference results spend strategy test validation vs_vanilla",
    "results": "reason seed spend state steps test validation",
    "steps": "notes spend state step",
    "gates": "high low passed saved score strategy threshold",
    "examples": "example feedback inputs kind prediction score",
    "spend": "cached calls completion_tokens prompt_tokens training_seconds trainings",
    "vs_vanilla": "high low mean n p_holm p_value significant test",
}
"""The schema written down once more: renaming or removing a field must be meant."""


def runs() -> list[SuiteRun]:
    found = with_gate(iris(0) + iris(1, 2))
    stepped = replace(found[4].results[0], steps=(StepResult("p", "abc123", Spend(3, 1), "kept 31 of 50 traces"),))
    return [*found[:4], SuiteRun("test_iris", (stepped,)), *found[5:]]


def test_report_is_valid_by_its_schema() -> None:
    schema = Report.model_json_schema(by_alias=True)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(json_text(json_report(runs()))))


def test_fields_are_those_written_down() -> None:
    seen: dict[str, set[str]] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                walk(name, item)
        elif isinstance(value, dict):
            seen.setdefault(name, set()).update(value)
            for key, item in value.items():
                walk(key, item)

    walk("", json.loads(json_text(json_report(runs()))))
    assert {name: " ".join(sorted(seen[name])) for name in FIELDS} == FIELDS
    # A score and an evaluation stand under the same names, at two levels.
    assert seen["test"] == seen["validation"]
    documented = Path(__file__).parent.parent.joinpath("docs", "report.md").read_text()
    assert [name for names in seen.values() for name in names if name not in documented] == []


def test_figures() -> None:
    report = json.loads(json_text(json_report(with_gate(iris()))))
    assert report["schema"] == "bt-harness/1"
    (suite,) = report["suites"]
    assert (suite["suite"], suite["lm"], suite["seeds"]) == ("test_iris", "local/nano", [0])
    by_name = {strategy["strategy"]: strategy for strategy in suite["strategies"]}
    assert list(by_name) == ["vanilla", "p", "w", "p -> p", "p -> w", "w -> p", "w -> w", "p -> w -> p"]
    best = by_name["p -> w -> p"]
    assert best["chosen"]
    assert best["test"]["mean"] == 0.74
    assert (best["test"]["low"], best["test"]["high"]) == pytest.approx((0.6045, 0.8413), abs=1e-4)
    assert best["vs_vanilla"]["mean"] == pytest.approx(0.48)
    assert best["vs_vanilla"]["p_value"] == 2 * 0.5**24
    assert best["vs_vanilla"]["p_holm"] == 6 * 2 * 0.5**24
    assert best["vs_vanilla"]["significant"]
    assert best["reference"] == 52.7
    assert [e["score"] for e in best["results"][0]["test"]["examples"]] == [1] * 37 + [0] * 13
    assert by_name["w -> w"]["test"] is None
    assert by_name["w -> w"]["results"][0]["reason"] == "no trace passed the metric"
    assert by_name["vanilla"]["vs_vanilla"] is None
    assert suite["gates"][0]["passed"] is False
    assert suite["spend"]["calls"] == 13_515


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "report.json"
    write_json(path, runs())
    found = read_json(path)
    assert found == json_report(runs())
    assert json_text(found) == path.read_text(encoding="ascii")


@settings(max_examples=4, deadline=None)
@given(st.randoms(use_true_random=False))
def test_same_results_give_the_same_bytes(rng: random.Random) -> None:
    shuffled = [*runs(), *(replace(run, suite="another") for run in iris())]
    expected = json_text(json_report(shuffled))
    rng.shuffle(shuffled)
    assert json_text(json_report(shuffled)) == expected


def test_no_figure_is_null_and_never_nan() -> None:
    result = StrategyResult(
        "x", "p", 0, "lm", test=evaluation("test", [None]), spend=Spend(training_seconds=math.inf), reference=math.nan
    )
    gate = GateResult("x", "p", math.nan, math.nan, math.nan, None, False)
    text = json_text(json_report([SuiteRun("x", (result,), gate)]))
    assert "NaN" not in text
    assert "Infinity" not in text
    (suite,) = json.loads(text)["suites"]
    assert suite["gates"][0]["score"] is None
    strategy = suite["strategies"][0]
    assert strategy["test"] is strategy["reference"] is strategy["spend"]["training_seconds"] is None
    assert strategy["results"][0]["test"]["mean"] is None
    assert strategy["results"][0]["test"]["examples"][0]["score"] is None


@settings(deadline=None)
@given(st.text(st.characters() | st.characters(categories=["Cs", "Cc"])))
def test_any_text_is_kept_and_steers_nothing(text: str) -> None:
    result = StrategyResult(text, "p", 0, text, reason=text)
    written = json_text(json_report([SuiteRun(text, (result,))]))
    assert all(" " <= character <= "\x7f" or character == "\n" for character in written)
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert json.loads(written)["suites"][0]["strategies"][0]["results"][0]["reason"] == expected


def test_an_older_report_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, runs())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.json", "old")]


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "bt-harness/2", "confidence": 0.95, "suites": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="Report"):
        read_json(path)


def test_an_empty_run_is_a_report() -> None:
    assert json.loads(json_text(json_report([]))) == {"schema": "bt-harness/1", "confidence": 0.95, "suites": []}
