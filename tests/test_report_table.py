"""The table, the failure text and what makes the text of others harmless."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from harness.report.failure import failure_text
from harness.report.format import count, distinct_percents, duration, percent, points, strategy_label, strategy_text
from harness.report.junit import user_properties
from harness.report.safe import one_line, plain, shorten
from harness.report.summary import Comparison, summarize
from harness.report.table import render, suite_table
from harness.results import Evaluation, ExampleScore, GateResult, Spend, StepResult, StrategyResult, SuiteRun
from harness.stats import Difference, Interval, interval
from tests.report_values import GATE, evaluation, hits, iris, with_gate

AT_80_COLUMNS = """\
test_iris · local/nano · seed 0 · 50 test examples · scores in %
                                            vs      LM
strategy     valid.       test (95 %)  vanilla   calls  saved  training  paper
──────────────────────────────────────────────────────────────────────────────
vanilla        25.7  26.0 (15.9–39.6)               85      0         –   26.0
p              57.1  54.0 (40.4–67.0)  +28.0 *     310     85         –   57.3
w              28.6  30.0 (19.1–43.8)     +4.0      85    135       31s   29.3
p → p          60.0  60.0 (46.2–72.4)  +34.0 *     295    395         –   59.3
p → w          62.9  62.0 (48.2–74.1)  +36.0 *     135    395       33s   30.7
w → p          60.0  66.0 (52.2–77.6)  +40.0 *     295    220       31s   66.7
w → w             –                 –        –       0      0         –   38.0
p → w → p ●    77.1  74.0 (60.4–84.1)  +48.0 *  12,310    530    1m 05s   52.7
──────────────────────────────────────────────────────────────────────────────
total                                           13,515  1,760    2m 41s
● chosen on validation
* differs from vanilla: p < 0.05, exact McNemar test, Holm's correction over 6
  strategies
– w → w: no trace passed the metric
gate FAILED: p → w → p scores 74.0 (60.4–84.1), threshold 85.0; saved to
tuned/test_iris.json
"""

HOSTILE = "\x1b[31mred\x1b]8;;http://x\x1b\\link\x07[bold red]x[/] \x9b2J\r\n\u202eevil\x00"


def shown(runs: list[SuiteRun], width: int = 120, *, color: bool = False, ascii_only: bool = False) -> str:
    return render(suite_table(runs), width=width, color=color, ascii_only=ascii_only)


def row(text: str, strategy: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(strategy))


def alone(strategy: str = "vanilla", **fields: object) -> list[SuiteRun]:
    result = StrategyResult("test_x", strategy, 0, "lm")
    return [SuiteRun("test_x", (replace(result, **fields),))]  # type: ignore[arg-type]


# ---- table


def test_table_at_80_columns() -> None:
    assert shown(with_gate(iris()), 80) == AT_80_COLUMNS


def test_wide_table_has_the_intervals_of_the_differences() -> None:
    assert "+4.0 (-3.0 to +11.3)" in row(shown(iris(), 120), "w ")


def test_order_of_the_items_does_not_matter() -> None:
    assert shown(with_gate(iris()[::-1])) == shown(with_gate(iris()))


@pytest.mark.parametrize("width", [20, 40, 60, 72, 76, 80, 100, 132, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for runs in (with_gate(iris()), iris(0) + iris(1, 2)):
        assert max(map(cell_len, shown(runs, width).splitlines())) <= width


def test_narrow_table_sums_up_the_costs_below() -> None:
    text = shown(iris(), 66)
    assert "saved  training" not in text
    assert "13,515 LM calls made, 1,760 saved, training 2m 41s, in all" in text


def test_several_seeds_show_mean_and_spread() -> None:
    text = shown(iris(0) + iris(1, 2) + iris(2, -1))
    assert "seeds 0, 1, 2" in text
    # 27, 29 and 26 of 50: mean 54.67, sample standard deviation 3.06.
    assert "54.7 ±  3.1" in row(text, "p ")
    assert "– w → w: no trace passed the metric\n" in text
    assert "sign-flip permutation test" in text


def test_seeds_without_a_score_are_named() -> None:
    scored = StrategyResult("x", "w", 1, "lm", test=hits("test", 3, 5))
    text = shown([SuiteRun("x", (scored, StrategyResult("x", "w", 2, "lm", reason="nothing passed")))])
    assert "– w (seed 2): nothing passed" in text
    assert "60.0" in row(text, "w ")


def test_columns_without_figures_are_left_out() -> None:
    text = shown(alone(test=hits("test", 40, 50)))
    for absent in ("valid.", "vanilla ", "calls", "training", "paper", "total"):
        assert absent not in text.split("\n", 1)[1].replace("vanilla       80", "")
    assert "80.0 (67.0–88.8)" in text


def test_dash_with_its_reason_where_nothing_could_be_scored() -> None:
    text = shown(alone(test=evaluation("test", [None, None])))
    assert "–" in row(text, "vanilla")
    assert "– vanilla: no test example could be scored" in text
    assert "unscored in test (the LM, its judge or the network failed; left out): vanilla 2 of 2" in text
    assert "– vanilla: not evaluated" in shown(alone())


def test_unscored_and_unparsable_are_counted() -> None:
    text = shown(alone(test=evaluation("test", [1, None, 0, 0], unparsable=1), validation=evaluation("v", [1, None])))
    assert "! unscored in validation (the LM, its judge or the network failed; left out): vanilla 1 of 2" in text
    assert "! unscored in test (the LM, its judge or the network failed; left out): vanilla 1 of 4" in text
    assert "? unparsable in test (counted as wrong): vanilla 1 of 4" in text


def test_a_p_value_of_exactly_the_level_is_not_below_it() -> None:
    difference = Difference(0.1, -0.01, 0.2, 0.05, 100, "sign-flip")
    assert not Comparison(difference, 0.05).significant
    assert Comparison(difference, 0.0499).significant


def test_no_significant_difference_is_said() -> None:
    runs = [
        SuiteRun("x", (StrategyResult("x", s, 0, "lm", test=hits("test", h, 20)),)) for s, h in (("", 9), ("p", 11))
    ]
    text = shown(runs)
    assert "no significant difference to vanilla: p >= 0.05, exact McNemar test\n" in text
    assert "*" not in text


def test_two_lms_are_two_tables_and_the_gate_is_below_its_own() -> None:
    other = [replace(run, results=tuple(replace(r, lm="openai/other") for r in run.results)) for run in iris(shift=1)]
    gates = [SuiteRun("test_iris", (), replace(GATE, lm=lm)) for lm in ("local/nano", "openai/other")]
    text = shown([*iris(), *other, *gates])
    first, second = text.split("\n\n")
    assert "local/nano" in first
    assert "openai/other" in second
    assert first.count("gate FAILED") == second.count("gate FAILED") == 1
    assert shown([*iris(), *other, SuiteRun("test_iris", (), GATE)]).count("gate FAILED") == 1


def test_a_rerun_item_counts_once() -> None:
    assert shown(iris(shift=1) + iris()) == shown(iris())


def test_calls_count_where_they_were_made_in_whatever_order_the_items_finish() -> None:
    made = alone(spend=Spend(calls=25), test=hits("test", 20, 25))
    found_again = alone(spend=Spend(cached=25), test=hits("test", 20, 25))
    assert summarize(found_again + made) == summarize(made + found_again) == summarize(made)
    other_scores = alone(spend=Spend(cached=25), test=hits("test", 21, 25))
    assert summarize(made + other_scores) == summarize(other_scores)


def test_equal_examples_of_a_split_are_paired_one_by_one() -> None:
    twins = [Evaluation("test", tuple(ExampleScore("same", s) for s in scores)) for scores in ([0, 1, 0], [1, 1, 0])]
    runs = [SuiteRun("x", (StrategyResult("x", s, 0, "lm", test=t),)) for s, t in zip(("", "p"), twins, strict=True)]
    comparison = summarize(runs)[0].strategies[1].comparison
    assert comparison is not None
    assert (comparison.difference.n, comparison.difference.mean) == (3, pytest.approx(1 / 3))


def test_gate_says_passed_failed_and_no_threshold() -> None:
    gates = {
        "gate passed: vanilla scores 90.0 (80.0–95.0), threshold 85.0": (0.9, 0.85, True),
        "gate FAILED: vanilla scores 84.96 (80.0–95.0), threshold 85.00": (0.8496, 0.85, False),
        "gate passed: vanilla scores 50.0 (80.0–95.0), no threshold": (0.5, None, True),
        "gate FAILED: vanilla scores –, threshold 85.0": (float("nan"), 0.85, False),
    }
    for words, (score, threshold, passed) in gates.items():
        gate = GateResult("test_x", "vanilla", score, 0.8, 0.95, threshold, passed)
        assert words in shown([*alone(test=hits("t", 1, 2)), SuiteRun("test_x", (), gate)])


def test_a_gate_without_results_is_shown() -> None:
    assert "gate FAILED" in shown([SuiteRun("test_iris", (), GATE)])
    assert shown([]) == "\n"


def test_a_shared_training_counts_once_in_the_total() -> None:
    made = StepResult("w", "tuned", Spend(10, 0, training_seconds=30.0, trainings=1))
    shared = StepResult("w", "tuned", made.spend.as_cached())
    runs = [
        SuiteRun("x", (StrategyResult("x", "w", 0, "lm", steps=(made,), spend=made.spend),)),
        SuiteRun(
            "x", (StrategyResult("x", "w-p", 0, "lm", steps=(shared, StepResult("p", "more")), spend=shared.spend),)
        ),
    ]
    text = shown(runs)
    assert [line.split()[-1] for line in text.splitlines() if line.startswith(("w", "total"))] == ["30s"] * 3


# ---- rendering


def test_without_colour_there_is_no_escape_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    assert shown(with_gate(iris()), 80) == AT_80_COLUMNS


def test_colour_changes_no_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = shown(with_gate(iris()), 80, color=True)
    assert "\x1b[1;31mFAILED" in coloured
    stripped = [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines()]
    assert stripped == AT_80_COLUMNS.splitlines()


def test_ascii_keeps_the_columns() -> None:
    text = shown(with_gate(iris()), 80, ascii_only=True)
    assert text.isascii()
    assert [len(line) for line in text.splitlines()] == [len(line) for line in AT_80_COLUMNS.splitlines()]
    assert "54.7+/- 3.1" in shown(iris(0) + iris(1, 2) + iris(2, -1), ascii_only=True)


# ---- text of others


def test_hostile_names_and_reasons_stay_text() -> None:
    result = StrategyResult(HOSTILE, HOSTILE, 0, HOSTILE, reason=HOSTILE)
    gate = GateResult(HOSTILE, HOSTILE, 0.5, 0.4, 0.6, 0.7, False, HOSTILE)
    text = shown([SuiteRun(HOSTILE, (result,), gate)])
    assert text.count("redlink[bold red]x[/] evil") == 7
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@settings(deadline=None)
@given(st.text(st.characters() | st.sampled_from("\x1b[]0;m\x07\x9b\x9d\\\r\n\t\u202e\ud800")))
def test_plain_text_steers_nothing(text: str) -> None:
    found = plain(text)
    assert plain(found) == found
    for character in found:
        assert character == "\n" or unicodedata.category(character) not in ("Cc", "Cs")
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
    found.encode()
    assert "\n" not in one_line(text)
    assert (
        render(Text(found), width=10_000, color=False).strip()
        == "\n".join(line.rstrip() for line in found.split("\n")).strip()
    )


@settings(deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_plain_keeps_ordinary_text(text: str) -> None:
    assert plain(text) == text


def test_shorten_says_what_is_left_out() -> None:
    assert shorten("abc", 10, 3) == "abc"
    assert shorten("abcdef", 3, 3) == "abc … (3 more characters)"
    assert shorten("a\nb\nc", 10, 2) == "a\nb … (2 more characters)"


# ---- failure text


def test_failure_text() -> None:
    scores = evaluation("test", [1, 0, 0.5, None, 0, 0.25, 0.9, 0, 1], unparsable=1)
    text = failure_text(scores, Interval(0.45625, 0.2, 0.75), 0.85, "p -> w", "test_iris")
    assert text.startswith(
        "test_iris [p → w] scores 45.6 % on test (95 % interval 20.0–75.0, n = 8), under the threshold of 85.0 %\n"
        "1 of 9 examples are unscored (the LM, its judge or the network failed; left out)\n"
        "  the first: assert 'versicolor' == 'virginica'\n"
        "1 of 9 answers did not parse: they count as wrong\n"
        "\n"
        "The worst 5 examples of 6 that score under 100 %:\n"
        "\n"
        "  test-1: 0.0 %, unparsable\n"
        "    inputs      petal_length=0.1\n"
        "    prediction  versicolor\n"
        "    feedback    assert 'versicolor' == 'virginica'\n"
        "\n"
        "  test-4: 0.0 %\n"
    )
    assert [line.split(":")[0].strip() for line in text.splitlines() if line.startswith("  test-")] == [
        "test-1",
        "test-4",
        "test-7",
        "test-5",
        "test-2",
    ]


def test_failure_text_of_nothing_scored_and_of_nothing_wrong() -> None:
    text = failure_text(evaluation("test", [None, None]), None, 0.5, "", "s")
    assert text.startswith("s [vanilla] has no score: none of the 2 test examples could be scored\n2 of 2 examples")
    perfect = hits("test", 3, 3)
    text = failure_text(perfect, interval(perfect.values), 0.5, "", "s")
    assert (
        text
        == "s [vanilla] scores 100.0 % on test (95 % interval 43.9–100.0, n = 3), not under the threshold of 50.0 %"
    )
    assert "threshold" not in failure_text(perfect, interval(perfect.values), None, "", "s")


def test_failure_text_tells_a_near_miss() -> None:
    near = hits("test", 16, 20)
    assert "The threshold lies inside the interval" in failure_text(near, interval(near.values), 0.85, "", "s")
    assert "84.96 % on test" in failure_text(evaluation("test", [0.8496]), None, 0.85, "", "s")


def test_failure_text_steers_nothing_and_stays_short() -> None:
    long = "\n".join(f"line {i} {HOSTILE}" for i in range(5_000))
    score = ExampleScore(HOSTILE, 0.0, inputs=long, prediction=long, feedback=long)
    text = failure_text(Evaluation("test", (score,) * 9), None, 0.5, HOSTILE, HOSTILE)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert len(text) < 25_000


# ---- numbers and names


def test_numbers() -> None:
    assert [percent(v) for v in (0.5736, 1, 0, None, float("nan"))] == ["57.4", "100.0", "0.0", "–", "–"]
    assert [points(v) for v in (0.3, -0.012, -0.0001, 0.0)] == ["+30.0", "-1.2", "+0.0", "+0.0"]
    assert [count(v) for v in (0, 99_999, 100_000, 999_499, 999_500, 12_345_678)] == [
        "0",
        "99,999",
        "100k",
        "999k",
        "1.0M",
        "12.3M",
    ]
    assert [duration(v) for v in (0, 3.24, 9.96, 59.4, 59.6, 200, 3599.7, 7500, float("nan"))] == [
        "0.0s",
        "3.2s",
        "10s",
        "59s",
        "1m 00s",
        "3m 20s",
        "1h 00m",
        "2h 05m",
        "–",
    ]
    assert distinct_percents(0.8496, 0.85) == ("84.96", "85.00")
    assert distinct_percents(0.85, 0.85) == ("85.0", "85.0")


@pytest.mark.parametrize(
    ("given_as", "label", "text"),
    [
        ("p -> w -> p", "p → w → p", "p -> w -> p"),
        ("p-w-p", "p → w → p", "p -> w -> p"),
        ("p → w", "p → w", "p -> w"),
        ("w", "w", "w"),
        ("", "vanilla", "vanilla"),
        ("vanilla", "vanilla", "vanilla"),
        ("my-step", "my-step", "my-step"),
    ],
)
def test_strategy_names(given_as: str, label: str, text: str) -> None:
    assert strategy_label(given_as) == label
    assert strategy_text(given_as) == text


def test_junit_properties() -> None:
    runs = {run.results[0].strategy: run for run in iris()}
    assert user_properties(runs["p -> w"]) == [
        ("bt.p->w.validation", "0.6286"),
        ("bt.p->w.validation_low", "0.4634"),
        ("bt.p->w.validation_high", "0.7683"),
        ("bt.p->w.test", "0.6200"),
        ("bt.p->w.test_low", "0.4815"),
        ("bt.p->w.test_high", "0.7414"),
        ("bt.p->w.calls", "135"),
        ("bt.p->w.saved", "395"),
    ]
    assert ("bt.w->w.reason", "no trace passed the metric") in user_properties(runs["w -> w"])
    steering = SuiteRun("x", (StrategyResult("x", "p", 0, "lm", reason=HOSTILE),))
    assert ("bt.p.reason", one_line(HOSTILE)) in user_properties(steering)
    assert user_properties(SuiteRun("test_iris", (), GATE)) == [
        ("bt.gate", "failed"),
        ("bt.chosen", "p->w->p"),
        ("bt.threshold", "0.8500"),
    ]
