"""Intervals, paired tests and Holm's correction against published figures, scipy and their own symmetries."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from harness.stats import Difference, Interval, holm, interval, mean, mean_sd, paired_difference

calm = settings(deadline=None)  # a busy machine is no failure

shares = st.floats(0, 1)
graded = st.lists(shares, min_size=1, max_size=40)
binary = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60)
pairs = st.lists(st.tuples(shares, shares), min_size=1, max_size=30)
binary_pairs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)
# Differences in steps of 1/8 are exact in binary, so that both sides count the same ties.
steps = st.integers(0, 8).map(lambda i: i / 8)


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


# ---- interval


@calm
@given(st.integers(1, 300), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_of_binary_scores_is_scipys_wilson(n: int, data: st.DataObject, confidence: float) -> None:
    hits = data.draw(st.integers(0, n))
    ours = interval([1.0] * hits + [0.0] * (n - hits), confidence)
    theirs = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.mean == hits / n


@calm
@given(graded | binary, st.randoms(use_true_random=False))
def test_interval_does_not_depend_on_order(values: list[float], rng: random.Random) -> None:
    shuffled = values.copy()
    rng.shuffle(shuffled)
    assert interval(shuffled) == interval(values)


@calm
@given(graded | binary)
def test_interval_holds_the_mean_and_stays_a_share(values: list[float]) -> None:
    found = interval(values)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.high - found.low > 1e-3, "forty examples are no certainty"


@calm
@given(graded | binary, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_more_confidence_is_a_wider_interval(values: list[float], one: float, other: float) -> None:
    narrow, wide = interval(values, min(one, other)), interval(values, max(one, other))
    assert wide.low <= narrow.low + 1e-12
    assert narrow.high <= wide.high + 1e-12


@calm
@given(graded, st.integers(2, 5))
def test_more_examples_are_a_narrower_interval(values: list[float], times: int) -> None:
    once, often = interval(values), interval(values * times)
    assert often.high - often.low < once.high - once.low


@calm
@given(binary)
def test_one_more_hit_raises_both_limits(values: list[float]) -> None:
    assume(0.0 in values)
    raised = values.copy()
    raised[raised.index(0.0)] = 1.0
    before, after = interval(values), interval(raised)
    assert before.low < after.low
    assert before.high < after.high


@calm
@given(graded | binary)
def test_interval_of_the_complement_is_the_mirror_image(values: list[float]) -> None:
    found, mirrored = interval(values), interval([1 - v for v in values])
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high), abs=1e-9)


@calm
@given(st.lists(steps, min_size=1, max_size=20))
def test_graded_scores_are_never_less_certain_than_binary_ones(values: list[float]) -> None:
    """0/1 scores have the largest variance that a mean allows."""
    graded_scores = values * 8
    hits = round(sum(graded_scores))
    ours, largest = interval(graded_scores), interval([1] * hits + [0] * (len(graded_scores) - hits))
    assert largest.low <= ours.low + 1e-12
    assert ours.high <= largest.high + 1e-12


@pytest.mark.parametrize("n", [1, 3, 10])
def test_equal_graded_scores_are_no_certainty(n: int) -> None:
    found = interval([0.5] * n)
    assert found.low < 0.5 - 0.05 < 0.5 + 0.05 < found.high


def test_less_spread_is_a_narrower_interval() -> None:
    widths = [
        found.high - found.low
        for spread in (0.5, 0.4, 0.2, 0.1)
        for found in [interval([0.5 - spread, 0.5 + spread] * 20)]
    ]
    assert all(wider > narrower for wider, narrower in pairwise(widths))


@pytest.mark.parametrize("n", [5, 10, 20, 50])
@pytest.mark.parametrize(("alpha", "beta"), [(2, 2), (8, 2), (0.3, 0.3)])
def test_interval_covers_the_true_mean(n: int, alpha: float, beta: float) -> None:
    rng = random.Random(n)
    runs, truth = 1_000, alpha / (alpha + beta)
    hits = 0
    for _ in range(runs):
        found = interval([rng.betavariate(alpha, beta) for _ in range(n)])
        hits += found.low <= truth <= found.high
    assert hits / runs >= 0.93


@pytest.mark.parametrize("values", [[], [float("nan")], [0.5, float("nan")], [1.2], [-0.1], [float("inf")]])
def test_interval_refuses_what_is_no_score(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        interval(values)


@pytest.mark.parametrize("confidence", [0, 1, -1, 95, float("nan")])
def test_interval_refuses_what_is_no_confidence(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        interval([1.0], confidence)


def test_interval_takes_bools_and_ints() -> None:
    assert interval([True, False]) == interval([1, 0]) == interval([1.0, 0.0])
    assert isinstance(interval([1, 1]), Interval)


# ---- paired_difference


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((20, 12, 2, 16), 0.0562, 0.3292),
        ((59, 6, 16, 80), -0.1186, -0.0046),
        ((54, 0, 0, 0), -0.0664, 0.0664),
    ],
)
def test_interval_of_binary_differences_is_newcombes(cells: tuple[int, int, int, int], low: float, high: float) -> None:
    found = paired_difference(*table(*cells))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)


@calm
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20), st.integers(0, 20))
def test_p_value_of_binary_differences_is_the_exact_mcnemar(b: int, c: int, both: int, neither: int) -> None:
    assume(b + c > 0)
    found = paired_difference(*table(both, b, c, neither))
    assert found.test == "mcnemar"
    assert found.p_value == pytest.approx(binomtest(b, b + c).pvalue, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(steps, steps), min_size=2, max_size=9))
def test_p_value_of_few_graded_differences_is_the_exact_permutation_test(scores: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in scores], [y for _, y in scores]
    assume(any(v not in (0, 1) for v in a + b))
    theirs = permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=math.inf,
    )
    found = paired_difference(a, b)
    assert found.test == "sign-flip"
    assert found.p_value == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.12])
def test_p_value_of_many_graded_differences_is_near_the_permutation_test(shift: float) -> None:
    rng = np.random.default_rng(1)
    b = rng.uniform(0, 0.8, 43)
    a = np.clip(b + rng.normal(shift, 0.2, 43), 0, 1)
    theirs = permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=2,
    )
    assert paired_difference(list(a), list(b)).p_value == pytest.approx(theirs.pvalue, abs=0.015)


def test_exact_and_drawn_permutation_agree_at_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    a = [rng.random() for _ in range(12)]
    b = [rng.random() * 0.7 for _ in range(12)]
    exact = paired_difference(a, b).p_value
    monkeypatch.setattr("harness.stats.EXACT_PAIRS", 0)
    assert paired_difference(a, b).p_value == pytest.approx(exact, abs=0.015)


@calm
@given(pairs | binary_pairs)
def test_swapping_the_sides_mirrors_the_difference(scores: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in scores], [y for _, y in scores]
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert other == Difference(-one.mean, -one.high, -one.low, one.p_value, one.n, one.test)


@calm
@given(pairs | binary_pairs, st.randoms(use_true_random=False))
def test_difference_does_not_depend_on_order(scores: list[tuple[float, float]], rng: random.Random) -> None:
    shuffled = scores.copy()
    rng.shuffle(shuffled)
    first, second = (paired_difference([x for x, _ in s], [y for _, y in s]) for s in (scores, shuffled))
    assert first == second


@calm
@given(pairs | binary_pairs)
def test_difference_is_bounded(scores: list[tuple[float, float]]) -> None:
    found = paired_difference([x for x, _ in scores], [y for _, y in scores])
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert 0 < found.p_value <= 1
    assert found.high - found.low > 1e-3
    assert found.n == len(scores)


@calm
@given(graded | binary)
def test_no_difference_is_not_significant(values: list[float]) -> None:
    found = paired_difference(values, values)
    assert found.mean == 0
    assert found.p_value == 1
    assert found.low < 0 < found.high


@calm
@given(st.integers(1, 25), st.integers(0, 30))
def test_more_discordant_pairs_on_one_side_lower_the_p_value(only_a: int, both: int) -> None:
    fewer, more = (paired_difference(*table(both, k, 0, 5)).p_value for k in (only_a, only_a + 1))
    assert more < fewer or fewer == more == 1


def test_examples_unscored_on_either_side_are_left_out() -> None:
    assert paired_difference([1, None, 0, 0.5], [0, 1, None, 0.25]) == paired_difference([1, 0.5], [0, 0.25])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "no example"),
        ([None], [1.0], "no example"),
        ([1.0], [1.0, 0.0], "same length"),
        ([float("nan")], [1.0], "a must be"),
        ([0.5], [1.5], "b must be"),
    ],
)
def test_difference_refuses_what_cannot_be_compared(a: list[float | None], b: list[float | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b)


def test_large_samples_are_compared_in_time_and_without_overflow() -> None:
    rng = random.Random(0)
    many = [rng.random() for _ in range(1_000)]
    assert paired_difference(many, [v * 0.97 for v in many]).p_value == pytest.approx(1e-4)
    assert paired_difference(*table(0, 2_000, 0, 0)).p_value == pytest.approx(0, abs=1e-300)


# ---- holm, mean, mean_sd


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([0.02]) == (0.02,)
    assert holm([]) == ()


@calm
@given(st.lists(shares, max_size=12), st.randoms(use_true_random=False))
def test_holm_is_monotone_at_least_the_raw_value_and_follows_its_input(
    p_values: list[float], rng: random.Random
) -> None:
    adjusted = holm(p_values)
    assert all(raw <= found <= 1 for raw, found in zip(p_values, adjusted, strict=True))
    by_raw = [found for _, found in sorted(zip(p_values, adjusted, strict=True))]
    assert by_raw == sorted(by_raw)
    order = list(range(len(p_values)))
    rng.shuffle(order)
    assert holm([p_values[i] for i in order]) == tuple(adjusted[i] for i in order)


@pytest.mark.parametrize("p", [float("nan"), -0.1, 1.1])
def test_holm_refuses_what_is_no_p_value(p: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, p])


@given(st.integers(1, 400), st.data(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_mean_over_seeds_of_equal_shares_is_that_share(
    n: int, data: st.DataObject, seeds: int, rng: random.Random
) -> None:
    scores = [1.0] * data.draw(st.integers(0, n)) + [0.0] * n
    scores = scores[:n]
    rng.shuffle(scores)
    assert mean([mean(scores)] * seeds) == mean(scores)


@calm
@given(st.lists(shares, min_size=2, max_size=10))
def test_mean_sd_is_numpys(values: list[float]) -> None:
    assert mean_sd(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=1e-12)


def test_one_seed_has_no_spread() -> None:
    assert mean_sd([0.5]) == (0.5, None)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_mean_sd_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        mean_sd(values)


def test_stats_and_reports_import_nothing_heavy() -> None:
    code = (
        "import sys, harness.stats, harness.report.table, harness.report.progress, harness.report.json_report, "
        "harness.report.junit, harness.report.failure; "
        "print([m for m in ('torch', 'litellm', 'scipy', 'numpy', 'sqlalchemy', 'pytest') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
