"""Published metrics for free-text answers: SQuAD's normalized exact match and GSM8K's last number."""

from __future__ import annotations

import re
import string
from fractions import Fraction

__all__ = ["exact_match", "last_number", "normalize_answer", "same_number"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case without ASCII punctuation, the words a, an and the, and superfluous blanks.

    As the evaluation scripts of SQuAD (Rajpurkar et al. 2016) and HotPotQA (Yang et al. 2018) do it, in their
    order: punctuation goes before articles, so that ``a.`` is an article too.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, *gold: str) -> bool:
    """Whether the prediction equals one of the gold answers after `normalize_answer`.

    Raises `TypeError` where one of them is no text: what a number or a list is written as is for the suite to say.
    """
    for given in (prediction, *gold):
        if not isinstance(given, str):
            raise TypeError(
                f"exact_match compares texts, but {given!r} is {type(given).__name__}: write it with str(), or compare "
                "numbers with same_number."
            )
    return normalize_answer(prediction) in {normalize_answer(answer) for answer in gold}


# A digit after a letter, an underscore or a caret is part of a word or an exponent (H2O, m^2), not a number.
_NUMBER = re.compile(
    r"""
    (?<![A-Za-z0-9_^])
    (?: (?P<units>\d{1,3})[ ](?P<top>\d{1,3})/(?P<bottom>\d{1,3})(?![\d/])
      | (?P<whole>\d{1,3}(?:[,\u00a0\u2009\u202f]\d{3})+(?!\d)|\d+)
        (?P<part>\.\d+)? (?:[eE](?P<exponent>[+-]?\d{1,3})(?!\w|\.\d))? (?:[ ]?/[ ]?(?P<over>\d+)(?![\d/]))?
    )
    | (?<![\w^]) (?P<bare>\.\d+)
    """,
    re.VERBOSE | re.ASCII,
)
# A minus right after a word, a number or a bracket is a hyphen or a difference: 3-5, (a)-1, COVID-19.
_NEGATIVE = re.compile(r"(?:^|[^\w.)\]}%])[-\u2212\u2013][$€£¥]?$")
_GROUPING = re.compile(r"[,\u00a0\u2009\u202f]")
# Longer ones come from an LM that repeats itself; Python reads and prints no more than 4,300 digits.
_LONGEST = 1_000
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly; None where there is none, or the last is no number anybody wrote.

    The usual reading of a GSM8K answer (Cobbe et al. 2021): ``$1,234.50`` is 1234.5, ``-3``, ``3/4`` and ``1 1/2``
    are what they say, ``15%`` is 15, ``2e-3`` is 0.002, and text or units around the number do not count.
    """
    plain = _LATEX_FRACTION.sub(r"\1/\2", text).replace("{,}", ",").replace("\\$", "$")
    numbers = list(_NUMBER.finditer(plain))
    if not numbers:
        return None
    found = numbers[-1]
    if len(found[0]) > _LONGEST:
        return None
    value = _value(found)
    return -value if _NEGATIVE.search(plain[: found.start()]) else value


def _value(found: re.Match[str]) -> Fraction:
    if found["bare"]:
        return Fraction("0" + found["bare"])
    if found["units"] and int(found["bottom"]):
        return int(found["units"]) + Fraction(int(found["top"]), int(found["bottom"]))
    if found["units"]:
        return Fraction(found["top"])
    value = Fraction(_GROUPING.sub("", found["whole"]) + (found["part"] or "")) * Fraction(10) ** int(
        found["exponent"] or 0
    )
    over = int(found["over"] or 1)
    return value / over if over else value


def same_number(prediction: str | float, gold: str | float) -> bool:
    """Whether the last numbers of both are equal in value: ``$1,000.00`` and ``1000``. False where one has none."""
    first, second = last_number(str(prediction)), last_number(str(gold))
    return first is not None and first == second
