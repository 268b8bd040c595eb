"""Metrics against the published definitions, and against every gold answer of GSM8K where the data is at hand."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import exact_match, last_number, normalize_answer, same_number
from harness.sources import read_rows


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  an   apple,  a pear ", "apple pear"),
        ("A. A. Milne", "milne"),  # punctuation goes first: both initials become articles
        ("U.S.", "us"),
        ("theory", "theory"),
        ("Banana-split", "bananasplit"),
        ("the", ""),
        ("$1,000", "1000"),
        ("Beyoncé", "beyoncé"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation, as in the published scripts
        ("line\nbreak\tand tab", "line break and tab"),
        ("", ""),
    ],
)
def test_normalization_is_that_of_squad_and_hotpotqa(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@given(st.text())
def test_normalizing_keeps_no_upper_ascii_no_punctuation_and_no_outer_blanks(text: str) -> None:
    found = normalize_answer(text)
    assert found == found.strip()
    assert not set(found) & set("ABCDEFGHIJKLMNOPQRSTUVWXYZ!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def test_exact_match_takes_any_gold_answer() -> None:
    assert exact_match("the Seine.", "Seine")
    assert exact_match("Yes", "no", "yes")
    assert not exact_match("the river Seine", "Seine")
    assert not exact_match("", "Seine")
    for compared in (("42", 42), ("42", "41", ["42"]), (42, "42")):
        with pytest.raises(TypeError, match=r"exact_match compares texts, but .*str\(\), or compare numbers with"):
            exact_match(*compared)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$1,234.50", "1234.5"),
        ("1,000", "1000"),
        ("1,234,567 people", "1234567"),
        ("1\u202f000", "1000"),
        ("3/4", "3/4"),
        ("3 / 4 of the cake", "3/4"),
        ("1 1/2 cups", "3/2"),
        (r"\frac{3}{4}", "3/4"),
        ("15%", "15"),
        ("15 percent of 80", "80"),
        ("-3", "-3"),
        ("−3", "-3"),
        ("-$12.50", "-12.5"),
        ("$-12", "-12"),
        ("x = -7.", "-7"),
        ("(-4)", "-4"),
        ("between 3-5", "5"),
        ("3 - 5", "5"),
        ("- 18 eggs", "18"),  # a bullet, no sign
        ("#### 18", "18"),
        (r"\boxed{1{,}250}", "1250"),
        (r"\$42", "42"),
        ("**72**", "72"),
        ("She pays $18 per day.", "18"),
        ("The answer is 18 dollars, as 9 * 2 = 18. Done!", "18"),
        ("first 5 and then .5", "1/2"),
        ("20 m^2", "20"),
        ("20 m2", "20"),
        ("3 litres of H2O", "3"),
        ("5kg", "5"),
        ("Rs.500", "500"),
        ("12.0", "12"),
        ("007", "7"),
        ("5/0", "5"),
    ],
)
def test_the_last_number_of_an_answer(text: str, value: str) -> None:
    assert last_number(text) == Fraction(value)


@pytest.mark.parametrize("text", ["", "no number", "H2O", "eighteen", "-", "$", "x^2"])
def test_a_text_without_a_number_has_none(text: str) -> None:
    assert last_number(text) is None
    assert not same_number(text, text)


@pytest.mark.parametrize("text", ["9" * 5_000, "1" + ",000" * 2_000, "1/" + "3" * 5_000, "0." + "3" * 5_000])
def test_digits_without_an_end_are_a_wrong_answer_and_no_error(text: str) -> None:
    assert last_number(f"The answer is 18, or {text}") is None
    assert not same_number(text, 18)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:d}", "{:,d}", "{:.2f}", "so {:,.1f} it is", "#### {:d}."]))
def test_a_whole_number_is_read_back_however_it_is_written(number: int, form: str) -> None:
    assert last_number(form.format(number)) == number
    assert same_number(form.format(number), number)


def test_equal_in_value_is_equal() -> None:
    assert same_number("$1,000.00", "1000")
    assert same_number("0.5", "1/2")
    assert same_number(1e-05, "0.00001")
    assert not same_number(1e-05, 5)
    assert same_number(1e16, "10,000,000,000,000,000")
    assert last_number("it is 2.5e-3.") == Fraction(25, 10_000)
    assert not same_number("18.5", "18")


@pytest.mark.skipif("BT_DATA_DIR" not in os.environ, reason="BT_DATA_DIR names no folder with GSM8K")
def test_every_gold_answer_of_gsm8k_parses() -> None:
    folder = Path(os.environ["BT_DATA_DIR"])
    rows = [*read_rows(folder / "gsm8k_train.jsonl.gz"), *read_rows(folder / "gsm8k_test.jsonl")]
    assert len(rows) == 8792
    for row in rows:
        gold = row["answer"].rpartition("#### ")[2]
        assert last_number(row["answer"]) == last_number(gold) == Fraction(gold.replace(",", ""))
