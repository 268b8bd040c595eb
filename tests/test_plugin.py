"""The plugin as a pytest user meets it, with a simulated LM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from harness import tuned
from harness.report import json_report
from tests.simulated import CONFTEST, SUITE, events


def report(project: pytest.Pytester, *options: str) -> dict[str, Any]:
    project.runpytest("--bt-optimize", "--bt-json", "report.json", *options)
    found: dict[str, Any] = json.loads((project.path / "report.json").read_text())
    return found


def scores(found: dict[str, Any]) -> dict[str, Any]:
    """Scores of every strategy on every example, without what a rerun does differently: calls made and saved."""
    return {
        row["strategy"]: [
            (
                result["seed"],
                result["reason"],
                result["state"],
                *(
                    split and [(e["example"], e["score"], e["kind"]) for e in split["examples"]]
                    for split in (result["validation"], result["test"])
                ),
            )
            for result in row["results"]
        ]
        for suite in found["suites"]
        for row in suite["strategies"]
    }


IDS = ["vanilla", "p", "w", "p-p", "w-w", "p-w", "w-p", "p-w-p"]


def test_each_strategy_is_an_item_and_best_is_the_gate(project: pytest.Pytester) -> None:
    result = project.runpytest("--bt-optimize", "-v")
    result.assert_outcomes(passed=9)
    result.stdout.fnmatch_lines([f"*test_parity?{name}? PASSED*" for name in [*IDS, "best"]])
    result.stdout.fnmatch_lines(
        ["*LM programs*", "parity*sim/plain*", "strategy*", "vanilla*", "*chosen*", "gate passed*"]
    )


def test_without_options_the_untuned_program_is_gated(project: pytest.Pytester, log: Path) -> None:
    project.makepyfile(test_parity=SUITE.replace("THRESHOLD", "0.9"))
    result = project.runpytest("-v")
    result.assert_outcomes(failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*::test_parity FAILED*", "parity ?vanilla? scores * under the threshold of 90.0*"])
    result.stdout.fnmatch_lines(["*inputs*number: 2*", "*prediction*", "*feedback*assert *"])
    assert len(events(log, "call")) == 25


def test_a_second_run_makes_no_call_and_no_training(project: pytest.Pytester, log: Path) -> None:
    first = report(project)
    calls, trainings = len(events(log, "call")), len(events(log, "training"))
    second = report(project)
    assert (len(events(log, "call")), len(events(log, "training"))) == (calls, trainings)
    assert trainings == 3
    assert scores(first) == scores(second)
    assert sum(suite["spend"]["calls"] for suite in first["suites"]) == calls
    assert sum(suite["spend"]["calls"] for suite in second["suites"]) == 0


def test_calls_are_never_asked_twice_and_prefixes_are_shared(project: pytest.Pytester, log: Path) -> None:
    report(project)
    asked = [call["digest"] for call in events(log, "call")]
    assert len(asked) == len(set(asked))


def test_after_w_every_call_goes_to_the_tuned_adapter(project: pytest.Pytester, log: Path) -> None:
    report(project, "--bt-strategies", "w -> p")
    kinds = [json.loads(line) for line in log.read_text().splitlines()]
    trained = next(place for place, value in enumerate(kinds) if value["kind"] == "trained")
    after = [value for value in kinds[trained + 1 :] if value["kind"] == "call"]
    assert after
    assert {value["adapter"] for value in after} == {kinds[trained]["adapter"]}


def test_training_data_are_passing_completions_under_the_original_prompt(project: pytest.Pytester, log: Path) -> None:
    report(project, "--bt-strategies", "p -> w")
    (training,) = events(log, "training")
    assert training["adapter"] is None
    assert training["examples"]
    system = "Say whether the number is even or odd.\n\nReply with:\nanswer: one of even, odd"
    for example in training["examples"]:
        assert len(example) == 3
        assert example[0] == system
        number = int(example[1].removeprefix("number: "))
        assert example[2] == f"answer: {'odd' if number % 2 else 'even'}"
    shown = [call for call in events(log, "call") if len(call["messages"]) > 2]
    assert shown  # the program that was traced had demos, the training prompt has none


def test_w_then_w_goes_on_from_the_first_adapter(project: pytest.Pytester, log: Path) -> None:
    report(project, "--bt-strategies", "w -> w")
    first, second = events(log, "training")
    assert first["adapter"] is None
    assert second["adapter"] == events(log, "trained")[0]["adapter"]


def test_prompts_are_reset_after_w(project: pytest.Pytester) -> None:
    found = report(project, "--bt-strategies", "p, p -> w, p -> w -> p")
    states = {name: rows[0][2] for name, rows in scores(found).items()}
    assert states["p"]["prompts"]
    assert states["p -> w"]["prompts"] == {}
    assert states["p -> w"]["lm"]["adapter"] == states["p -> w -> p"]["lm"]["adapter"] is not None


def test_a_suite_that_never_passes_reports_a_dash_with_the_reason(project: pytest.Pytester) -> None:
    result = project.runpytest("--bt-optimize", "--bt-lm", "sim/never", "-rs")
    result.assert_outcomes(passed=3, skipped=5, failed=1)
    result.stdout.fnmatch_lines(["w * – *", "*no trace to train on: 0 of 30 examples have a passing trace*"])
    found = report(project, "--bt-lm", "sim/never")
    rows = {name: rows[0] for name, rows in scores(found).items()}
    assert rows["w"][1].startswith("no trace to train on")
    assert rows["w"][2:] == ({}, None, None)


def test_wrong_unparsable_and_failed_are_told_apart(project: pytest.Pytester) -> None:
    project.runpytest("--bt-lm", "sim/faulty", "--bt-json", "report.json")
    (suite,) = json.loads((project.path / "report.json").read_text())["suites"]
    examples = suite["strategies"][0]["results"][0]["test"]["examples"]
    kinds = {int(e["inputs"].removeprefix("number: ")): (e["kind"], e["score"]) for e in examples}
    assert {kinds[n] for n in kinds if n % 5 == 0} == {("unscored", None)}
    assert {kinds[n] for n in kinds if n % 5 == 1} == {("unparsable", 0.0)}
    assert {kinds[n] for n in kinds if n % 5 > 1} == {("scored", 0.0), ("scored", 1.0)}


def test_too_many_unscored_examples_fail_the_suite(project: pytest.Pytester) -> None:
    result = project.runpytest("--bt-lm", "sim/faulty")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*5 of 25 test examples are unscored, more than max_unscored=0.05 allows*ContentFilter*"]
    )


@pytest.mark.parametrize("kind", ["ValueError", "ContentFilterError", "AuthenticationError", "DataMissingError"])
def test_what_servers_and_programs_say_steers_no_terminal(project: pytest.Pytester, kind: str) -> None:
    program = f"""
from harness.errors import *

def said(number):
    raise {kind}("\\x1b[31m[red]\\x1b]0;title\\x07\\u202eback")

@suite(program=said,"""
    project.makepyfile(test_parity=SUITE.replace("THRESHOLD", "0.5").replace("@suite(program=parity,", program))
    result = project.runpytest("-rsf", "--color=no")
    assert "[red]back" in result.stdout.str()
    assert not {"\x1b", "\x07", "\u202e"} & set(result.stdout.str())


def test_too_many_unscored_in_validation_fail_the_strategy_and_it_is_not_chosen(project: pytest.Pytester) -> None:
    result = project.runpytest("--bt-optimize", "--bt-lm", "sim/strained", "--bt-strategies", "p")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*test_parity?p?*", "*p?: 20 of 20 validation examples are unscored, more than*"])
    result.stdout.fnmatch_lines(["gate FAILED: vanilla scores*"])


def test_a_mean_over_seeds_that_is_the_threshold_passes(project: pytest.Pytester) -> None:
    project.makepyfile(test_parity=SUITE.replace("THRESHOLD", "0.7").replace("rows(200, 25)", "rows(200, 20)"))
    options = ["--bt-optimize", "--bt-strategies", "vanilla", "--bt-lm", "sim/seven"]
    result = project.runpytest(*options, "--bt-seeds", "0,1,2")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["gate passed: vanilla scores 70.0*threshold 70.0"])


def test_a_strategy_without_a_score_with_one_seed_passes_no_gate(project: pytest.Pytester) -> None:
    options = ["--bt-optimize", "--bt-strategies", "w", "--bt-lm", "sim/patchy", "--bt-save", "tuned"]
    result = project.runpytest(*options, "--bt-seeds", "0,1")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*parity' ?w?: no score with seed 1: no trace to train on*", "gate FAILED: w scores*"])
    assert not (project.path / "tuned").exists()


def test_the_gate_is_reported_where_the_program_cannot_be_saved(project: pytest.Pytester) -> None:
    (project.path / "tuned" / "parity.json").mkdir(parents=True)
    result = project.runpytest("--bt-optimize", "--bt-strategies", "p", "--bt-save", "tuned")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["gate *: p scores *"])


def test_one_run_at_a_time_saves_a_program(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Path] = []

    def save(*_: object) -> None:
        for file in (project.path / ".bt" / "locks").iterdir():
            try:
                with FileLock(file).acquire(timeout=0):
                    pass
            except Timeout:
                held.append(file)

    monkeypatch.setattr(tuned, "save_tuned", save)
    project.runpytest("--bt-optimize", "--bt-strategies", "p", "--bt-save", "tuned")
    assert len(held) == 1


def test_a_program_tuned_for_another_lm_is_not_taken_without_a_word(project: pytest.Pytester) -> None:
    project.runpytest("--bt-optimize", "--bt-strategies", "p", "--bt-save", "tuned")
    result = project.runpytest("--bt-lm", "sim/seven")
    result.stdout.fnmatch_lines(["parity: untuned, since tuned/parity.json is for sim/plain, not sim/seven."])


def test_a_report_that_cannot_be_written_at_the_end_loses_no_other(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json_report, "write_json", full)
    result = project.runpytest("--bt-json", "report.json")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*LM programs*", "vanilla*", "--bt-json=*report.json could not be written (No space*"])


def test_a_dry_run_with_errors_runs_nothing(project: pytest.Pytester, log: Path) -> None:
    project.makepyfile(test_broken="import nonexistent")
    result = project.runpytest("--bt-dry-run", "--continue-on-collection-errors")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*--bt-dry-run makes no plan after errors*"])
    assert not events(log, "call")


PARAMETRIZED = SUITE.replace("THRESHOLD", "0.0").replace("(example, prediction)", "(example, prediction, mode)")


def parametrized(project: pytest.Pytester, values: str) -> None:
    mark = f"import pytest\n\n@pytest.mark.parametrize('mode', {values})\n@suite"
    project.makepyfile(test_parity=PARAMETRIZED.replace("@suite", mark))


def test_parameters_are_no_strategies(project: pytest.Pytester) -> None:
    parametrized(project, "['p', 'w']")
    result = project.runpytest("--bt-optimize", "--bt-strategies", "p", "-k", "best")
    result.assert_outcomes(passed=2, deselected=4)
    table = ["vanilla*", "p *", "gate passed*"]
    result.stdout.fnmatch_lines(["parity?p? *", *table, "parity?w? *", *table])


def test_parameters_are_named_by_their_ids(project: pytest.Pytester) -> None:
    parametrized(project, "[lambda: 1, '../up', 1, '1', 'x' * 300]")
    project.runpytest("--bt-optimize", "--bt-strategies", "vanilla", "--bt-save", "tuned").assert_outcomes(passed=10)
    assert not list(project.path.glob("*.json"))
    saved = {path.name for path in (project.path / "tuned").iterdir()}
    assert len(saved) == 5
    assert "parity[mode4].json" in saved
    result = project.runpytest()
    result.assert_outcomes(passed=5)
    assert "untuned" not in result.stdout.str()


def test_parameters_of_fixtures_and_marks_make_one_suite_of_all_strategies(project: pytest.Pytester) -> None:
    marks = "['hard', pytest.param('easy', id=pytest.HIDDEN_PARAM)]"
    project.makepyfile(
        test_parity=PARAMETRIZED.replace("mode)", "mode, kind)").replace(
            "@suite",
            "import pytest\n\n@pytest.fixture(params=['a', 'p'])\ndef kind(request):\n    return request.param\n\n"
            f"@pytest.mark.parametrize('mode', {marks})\n@suite",
        )
    )
    project.runpytest(
        "--bt-optimize", "--bt-strategies", "p", "--bt-save", "tuned", "--bt-json", "report.json"
    ).assert_outcomes(passed=12)
    names = {"parity[a-hard]", "parity[a]", "parity[p-hard]", "parity[p]"}
    found = json.loads((project.path / "report.json").read_text())["suites"]
    assert {suite["suite"] for suite in found} == names
    assert all([row["strategy"] for row in suite["strategies"]] == ["vanilla", "p"] for suite in found)
    result = project.runpytest()
    result.assert_outcomes(passed=4)
    assert {path.stem for path in (project.path / "tuned").iterdir()} == names


def test_a_skip_names_the_suite(project: pytest.Pytester) -> None:
    result = project.runpytest("--bt-optimize", "--bt-lm", "sim/never", "--bt-strategies", "w", "-rs")
    result.stdout.fnmatch_lines(["SKIPPED*test_parity.py:*no score: no trace to train on*"])


def test_the_saved_program_is_gated_next_time(project: pytest.Pytester) -> None:
    project.runpytest("--bt-optimize", "--bt-save", "tuned").assert_outcomes(passed=9)
    saved = json.loads((project.path / "tuned" / "parity.json").read_text())
    result = project.runpytest("--bt-store", "fresh")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"gate passed: {saved['strategy'].replace(' -> ', ' ? ')} scores*"])


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        (["-k", "p-w-p"], {"passed": 1, "deselected": 8}),
        (["-k", "p-w-p or best"], {"passed": 2, "deselected": 7}),
        (["-n", "2"], {"passed": 9}),
        (["-q"], {"passed": 9}),
        (["-p", "no:terminal"], None),
        (["--bt-strategies", "p-w-p"], {"passed": 3}),
        (["--bt-seeds", "0,1"], {"passed": 9}),
    ],
)
def test_pytest_options_behave(project: pytest.Pytester, options: list[str], outcomes: dict[str, int] | None) -> None:
    result = project.runpytest_subprocess("--bt-optimize", "--bt-json", "report.json", *options)
    assert result.ret == 0
    if outcomes is not None:
        result.assert_outcomes(**outcomes)
    assert json.loads((project.path / "report.json").read_text())["suites"]
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    ("mark", "threshold", "lm", "best"),
    [
        ("strict=True", "1.0", "plain", {"passed": 2, "xfailed": 1}),
        ("strict=True", "0.1", "plain", {"passed": 2, "failed": 1}),
        ("strict=False", "0.1", "plain", {"passed": 2, "xpassed": 1}),
        ("strict=True", "0.1", "faulty", {"xfailed": 3}),
    ],
)
def test_an_expected_failure_is_that_of_the_gate(
    project: pytest.Pytester, mark: str, threshold: str, lm: str, best: dict[str, int]
) -> None:
    marked = SUITE.replace("@suite", f"import pytest\n@pytest.mark.xfail({mark})\n@suite")
    project.makepyfile(test_parity=marked.replace("THRESHOLD", threshold))
    result = project.runpytest("--bt-optimize", "--bt-strategies", "p", "--bt-lm", f"sim/{lm}")
    result.assert_outcomes(**best)


def test_workers_find_what_one_process_finds_and_repeat_no_call(project: pytest.Pytester, log: Path) -> None:
    alone = scores(report(project, "--bt-store", "alone"))
    log.unlink()
    project.runpytest_subprocess("--bt-optimize", "--bt-json", "report.json", "-n", "2")
    together = scores(json.loads((project.path / "report.json").read_text()))
    assert together == alone
    asked = [call["digest"] for call in events(log, "call")]
    assert len(events(log, "training")) == 3
    assert len(asked) == len(set(asked))


def test_x_stops_and_lf_runs_the_failed_item_again(project: pytest.Pytester) -> None:
    project.makepyfile(test_parity=SUITE.replace("THRESHOLD", "1.0"))
    hopeless = ("--bt-optimize", "--bt-lm", "sim/never")
    assert project.runpytest(*hopeless, "-x").ret == 1
    result = project.runpytest(*hopeless, "--lf")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*run-last-failure*", "gate FAILED*threshold 100.0*"])


def test_collect_only_names_the_items_and_runs_nothing(project: pytest.Pytester, log: Path) -> None:
    result = project.runpytest("--bt-optimize", "--collect-only", "-q")
    result.stdout.fnmatch_lines([f"test_parity.py::test_parity?{name}?" for name in [*IDS, "best"]])
    assert not events(log, "call")
    assert not (project.path / ".bt").exists()


def test_suites_stand_beside_ordinary_tests_fixtures_and_classes(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_mixed=SUITE.replace("THRESHOLD", "None").replace(
            "def test_parity(example, prediction):",
            "def test_mixed(example, prediction, trace, allowed, tmp_path):\n"
            "    assert prediction in allowed and tmp_path.is_dir() and trace.calls[0].module == 'parity'",
        )
        + """
import pytest

@pytest.fixture
def allowed():
    return ["even", "odd"]

def test_ordinary(allowed, tmp_path):
    assert allowed
"""
    )
    project.runpytest("test_mixed.py", "--bt-optimize").assert_outcomes(passed=10)


def test_float_and_async_metrics_and_programs(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_float=SUITE.replace("THRESHOLD", "0.4")
        .replace("def parity(", "async def parity(")
        .replace("def test_parity(", "async def test_float(")
        .replace("    assert prediction == example.parity", "    return 0.5 if prediction in ('even', 'odd') else 0.0")
    )
    result = project.runpytest("test_float.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["vanilla * 50.0 *"])


def test_plugins_that_call_coroutine_functions_leave_metrics_alone(project: pytest.Pytester) -> None:
    metric = SUITE.replace("THRESHOLD", "0.5").replace("def test_parity(", "async def test_parity(")
    wrapped = project.makeconftest(
        CONFTEST
        + """
import functools, pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):  # as pytest-asyncio does it
    @functools.wraps(item.obj)
    def synchronized(**arguments):
        raise RuntimeError("This event loop is already running")
    item.obj = synchronized
    return (yield)
"""
    )
    project.makepyfile(test_parity=metric.replace("@suite", "import pytest\n@pytest.mark.anyio\n@suite"))
    project.runpytest().assert_outcomes(passed=1)
    wrapped.write_text(wrapped.read_text().partition("@pytest.hookimpl")[0])
    project.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["--bt-strategies=p", "--bt-dry-run"])
def test_a_call_in_a_thread_without_the_runs_context_goes_to_no_other_lm(
    project: pytest.Pytester, log: Path, option: str
) -> None:
    threads = SUITE.replace("THRESHOLD", "0.1").replace(
        "def rows(",
        "from concurrent.futures import ThreadPoolExecutor\nfrom contextvars import copy_context\n\n"
        "def threaded(number: int):\n"
        "    with ThreadPoolExecutor() as pool:\n"
        "        return pool.submit(copy_context().run, parity, number).result()\n\n"
        "def rows(",
    )
    project.makepyfile(test_parity=threads.replace("program=parity", "program=threaded"))
    assert project.runpytest("--bt-optimize", option).ret == 0
    calls = len(events(log, "call"))
    lost = threads.replace("program=parity", "program=threaded").replace("copy_context().run, ", "")
    project.makepyfile(test_parity=lost)
    result = project.runpytest("--bt-optimize", option)
    assert result.ret != 0
    assert "module 'parity' was called in a thread without the context" in result.stdout.str() + result.stderr.str()
    assert len(events(log, "call")) == calls


def test_the_table_has_strategies_whose_own_items_have_no_result(project: pytest.Pytester) -> None:
    failing = """
import pytest

@pytest.fixture(autouse=True)
def service(request):
    if request.node.name.endswith("[p]"):
        raise RuntimeError("no service")
"""
    project.makepyfile(test_parity=SUITE.replace("THRESHOLD", "0.1") + failing)
    result = project.runpytest("--bt-optimize", "--bt-strategies", "p")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["vanilla * 56.0 *", "p ● * 44.0 *", "gate passed: p scores 44.0*"])


def test_a_wrong_key_or_model_stops_the_run_at_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_other=SUITE.replace("THRESHOLD", "0.5").replace("test_parity", "test_other"),
    )
    project.makeconftest(
        CONFTEST
        + "from harness.errors import AuthenticationError\n"
        + "async def refuse(self, request):\n"
        + "    raise AuthenticationError('the key in SIM_KEY is refused; set another')\n"
        + "simulated.SimulatedProvider.complete = refuse\n"
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["AuthenticationError: the key in SIM_KEY*", "*Interrupted: the key in SIM_KEY*"])


def test_nothing_is_shown_or_opened_where_no_suite_is(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest_subprocess("--bt-optimize")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*LM programs*")
    assert not (pytester.path / ".bt").exists()
