"""Everything that can be given wrongly has an error of its own that says the cause and the remedy."""

from __future__ import annotations

import os
import socket

import pytest

from tests.simulated import CONFTEST, SUITE

GOOD = SUITE.replace("THRESHOLD", "0.1")
HEAD, _, _metric = GOOD.partition("@suite")
METHOD = f"@suite{_metric}".replace("(example, prediction)", "(self, example, prediction)").replace("\n", "\n    ")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("BT_LM", raising=False)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_parity=GOOD)
    pytester.makeini("[pytest]\nbt_lm = sim/plain\n")
    return pytester


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bt-optimize", "--bt-strategies", "p -> x"], "*'p -> x' has the unknown step 'x'; steps are p, w*"),
        (["--bt-optimize", "--bt-strategies", "p ->"], "*has the unknown step ''*"),
        (["--bt-lm", "gpt"], "*'gpt' names no LM: a model string is PROVIDER/NAME*"),
        (["--bt-lm", "local/no such folder"], "*there is no folder no such folder*local/nano*"),
        (["--bt-save", "tuned"], "*--bt-save writes what optimization found; add --bt-optimize*"),
        (["--bt-strategies", "p"], "*add --bt-optimize*"),
        (["--bt-preset", "best"], "*no preset 'best'; choose one of default, paper*"),
        (["--bt-set", "candidates"], "*'candidates' is not NAME=VALUE*"),
        (["--bt-set", "candidate=3"], "*no setting 'candidate'; settings are *candidates*rank*"),
        (["--bt-set", "candidates=-1"], "*candidates='-1' is not allowed*greater than or equal to 0*"),
        (["--bt-set", "rank=high"], "*rank='high' is not allowed*valid integer*"),
        (["--bt-seeds", "0,x"], "*--bt-seeds 'x' is not allowed*"),
        (["--bt-concurrency", "0"], "*--bt-concurrency '0' is not allowed*"),
    ],
)
def test_wrong_options_are_usage_errors(project: pytest.Pytester, options: list[str], message: str) -> None:
    result = project.runpytest(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{"number": n, "parity"', '{"n": n, "parity"', "*parameter 'number' is no field of the examples (n, parity)*"),
        ("rows(200, 25)", "rows(0, 25)", "*the splits 'train' and 'test' share the example {'number': 0,*"),
        ("rows(200, 25)", "[]", "*the split 'test' is empty*"),
        ('"test": rows(200, 25)', '"extra": []', "*the split 'test' is missing; there are train, validation, extra*"),
        ("rows(200, 25)", "None", "*DataError: suite 'parity': the split 'test' is NoneType; give a list of rows*"),
        ("rows(200, 25)", "[1, 2]", "*a row of 'test' is int, not a mapping*"),
        ("data=splits", "data=[1]", "*data is list, not a mapping of train, validation and test*"),
        ("data=splits", "data=splits, stratify='kind'", "*'parity': a training example has no field 'kind', only nu*"),
        ("assert prediction == example.parity", "return 1.7", "*MetricError*metric returned 1.7; a score is a bool*"),
        ("assert prediction == example.parity", "prediction", "*MetricError*returned None and asserts nothing*"),
        ("assert prediction == example.parity", "return 'yes'", "*MetricError*metric returned 'yes'*"),
        ("assert prediction == example.parity", "__import__('pytest').skip('no')", "*MetricError*skips an example*"),
        ("assert prediction == example.parity", "assert example.parities", "*has no field 'parities'*"),
        ("THRESHOLD", "0.1, settings=dict(candidate=3)", "*no setting 'candidate'*"),
        ("program=parity", "program=lambda number: 1 / 0", "*program raised ZeroDivisionError*on the example*"),
        ("program=parity", "program=lambda number: __import__('pytest').skip('no')", "*raised Skipped: no on*"),
        ("program=parity", "program=lambda number: __import__('pytest').xfail('so')", "*raised XFailed: so on*"),
    ],
)
def test_a_suite_that_does_not_fit_together_fails(project: pytest.Pytester, old: str, new: str, message: str) -> None:
    source = SUITE if old == "THRESHOLD" else GOOD
    if old == "THRESHOLD":
        source = source.replace(
            ", settings=dict(\n    prompt_train=12, prompt_validation=10, candidates=4, demos=4, rollouts=3)", ""
        )
    assert old in source
    project.makepyfile(test_parity=source.replace(old, new))
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threshold=0.1", "threshold=85", "*threshold=85 is not between 0 and 1*"),
        ("(example, prediction)", "(example=None, prediction=None)", "*'example', which has a default; remove it*"),
        ("@suite", "@suite(program=parity, data=splits)\n@suite", "*suite 'parity': the function is a suite already*"),
        ("program=parity", "program='parity'", "*program= must be a function, not 'parity'*"),
        ("test_parity(example, prediction)", "test_parity(tmp_path)", "*takes neither 'example' nor 'prediction'*"),
        ('    """Say whether', '    return 5\n    """Say whether', "*'parity'*test_parity.py*code in its body*"),
        ("parity(number: int)", "parity(number)", "*'number' has no annotation; write number: str*"),
    ],
)
def test_what_cannot_be_a_suite_is_an_error_at_collection(
    project: pytest.Pytester, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    project.makepyfile(test_parity=GOOD.replace(old, new))
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_two_suites_of_one_name(project: pytest.Pytester) -> None:
    project.makepyfile(test_again=GOOD)
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*two suites are named 'parity'*Rename one*"])


def test_two_suites_of_one_name_in_a_file(project: pytest.Pytester) -> None:
    project.makepyfile(test_parity=f"{HEAD}\nclass TestA:\n    {METHOD}\nclass TestB:\n    {METHOD}")
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*two suites are named 'parity': *::TestA::test_parity and *::TestB::test_parity. R*"])


def test_a_unittest_method_is_no_suite(project: pytest.Pytester) -> None:
    project.makepyfile(test_case=f"import unittest\n{HEAD}\nclass TestA(unittest.TestCase):\n    {METHOD}")
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_case.py::TestA::test_parity: a method of unittest.TestCase cannot be a suite*"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bt-json=."], "*--bt-json=* is not a file; name another one*"),
        (["--bt-json=test_parity.py/report.json"], "*--bt-json=* cannot be written, since *test_parity.py cannot*"),
        (["--bt-optimize", "--bt-save=test_parity.py"], "*--bt-save=* is not a folder; name another one*"),
        (["--bt-seeds=0,1"], "*--bt-seeds with several seeds*add --bt-optimize*"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(
    project: pytest.Pytester, options: list[str], message: str
) -> None:
    result = project.runpytest(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize("line", ["bt_seeds = x", "bt_preset = nope", "bt_strategies = q\nbt_optimize = true"])
def test_wrong_values_of_the_ini_file_are_usage_errors(project: pytest.Pytester, line: str) -> None:
    project.makeini(f"[pytest]\n{line}\n")
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stderr.str()


def test_the_ini_file_may_name_what_only_an_optimization_needs(project: pytest.Pytester) -> None:
    (project.path / "sub").mkdir()
    project.makeini("[pytest]\nbt_lm = sim/plain\nbt_save = kept\nbt_all = true\nbt_seeds = 0,1\nbt_store = here\n")
    os.chdir(project.path / "sub")
    project.runpytest("--strict-config", "..").assert_outcomes(passed=1)
    assert (project.path / "here").is_dir()
    project.runpytest("--bt-optimize", "--bt-strategies", "p", "..").assert_outcomes(passed=3)
    assert (project.path / "kept" / "parity.json").is_file()


def test_a_corrupt_store(project: pytest.Pytester) -> None:
    folder = project.mkdir(".bt")
    (folder / "store.sqlite").write_bytes(b"not a database at all, but long enough to look like one" * 50)
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*StoreError: *store.sqlite*"])
    assert (folder / "store.sqlite").read_bytes().startswith(b"not a database")


def test_a_store_folder_that_cannot_be_written(project: pytest.Pytester) -> None:
    # A file where the folder should be refuses root as well, for whom no folder is read-only.
    project.makefile(".txt", taken="")
    result = project.runpytest("--bt-store", "taken.txt/store")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*StoreError: *taken.txt*cannot be written*"])


def test_a_truncated_adapter(project: pytest.Pytester) -> None:
    options = ("--bt-optimize", "--bt-strategies", "w")
    project.runpytest(*options).assert_outcomes(passed=3)
    (weights,) = (project.path / ".bt" / "adapters").glob("*/adapter_model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    result = project.runpytest(*options)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*AdapterError: *adapter_model.safetensors is truncated. Delete *train it anew*"])
    for file in weights.parent.iterdir():
        file.unlink()
    weights.parent.rmdir()
    project.runpytest(*options).assert_outcomes(passed=3)
    assert weights.read_bytes() == whole


def test_a_damaged_tuned_program(project: pytest.Pytester) -> None:
    folder = project.mkdir("tuned")
    for text, message in [
        ("{", "*TunedProgramError: *parity.json is no JSON*"),
        ("{}", "*TunedProgramError: *parity.json is no tuned program of the schema*"),
        ('{"schema": "bt-harness/tuned/1"}', "*TunedProgramError: *parity.json lacks a part*"),
    ]:
        (folder / "parity.json").write_text(text)
        result = project.runpytest()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([message])


def test_an_unreachable_endpoint_leaves_every_example_unscored(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound but not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        project.makeconftest(
            CONFTEST + "import asyncio\nfrom harness.lm import retry\nretry.RetryPolicy.wait = lambda self, *_: None\n"
        )
        result = project.runpytest_subprocess("--bt-lm", "openai/test")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*25 of 25 test examples are unscored*ConnectionFailedError*openai/test*127.0.0.1*"])
