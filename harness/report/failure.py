"""What a suite that misses its threshold says: the message of the failing test item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.report.format import distinct_percents, percent, strategy_label
from harness.report.safe import one_line, shorten
from harness.report.summary import CONFIDENCE, score_of
from harness.results import Evaluation, ExampleScore
from harness.stats import Interval

__all__ = ["WORST", "failure_text"]

WORST = 5
"""Examples shown."""

_CHARACTERS, _LINES = 1_000, 12
"""Of each text shown of an example."""


def failure_text(
    evaluation: Evaluation,
    interval: Interval | None,
    threshold: float | None,
    strategy: str,
    suite: str,
    *,
    seeds: Sequence[Evaluation] = (),
) -> str:
    """Score, interval and threshold, the unscored and unparsable, and the five worst examples in full.

    ``interval`` is None, and the mean NaN, where no example was scored. ``seeds`` are the evaluations with all
    seeds where there were several: the score is then their mean, and the worst examples are those of
    ``evaluation``, one of them. Plain text, nothing in it is markup; it is the same on every terminal. Examples
    that score 1 are not shown, whatever their number; among equals the first ones of the split are.
    """
    every = seeds or (evaluation,)
    return "\n".join(
        [
            *_verdict(every, interval, threshold, f"{one_line(suite)} [{strategy_label(strategy)}]"),
            *_failures(every),
            *_worst(evaluation),
        ]
    )


def _verdict(
    evaluations: Sequence[Evaluation], interval: Interval | None, threshold: float | None, name: str
) -> Iterator[str]:
    score_over_seeds = score_of(evaluations)
    split = one_line(evaluations[0].split)
    if score_over_seeds is None:
        total = sum(len(evaluation.scores) for evaluation in evaluations)
        yield f"{name} has no score: none of the {total} {split} examples could be scored"
        return
    mean, n = score_over_seeds.mean, max(len(evaluation.values) for evaluation in evaluations)
    score, limit = (percent(mean), "") if threshold is None else distinct_percents(mean, threshold)
    level = f"{100 * CONFIDENCE:.0f} %"
    bounds = "" if interval is None else f"{level} interval {percent(interval.low)}–{percent(interval.high)}, "
    words = ""
    if threshold is not None:
        words = f", {'under' if mean < threshold else 'not under'} the threshold of {limit} %"
    seeds = f"mean of {len(evaluations)} seeds, " if len(evaluations) > 1 else ""
    yield f"{name} scores {score} % on {split} ({seeds}{bounds}n = {n}){words}"
    if threshold is not None and interval is not None and mean < threshold <= interval.high:
        yield "The threshold lies inside the interval: more examples would tell whether it is really missed."


def _failures(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    scores = [score for evaluation in evaluations for score in evaluation.scores]
    unscored, unparsable = (sum(e.unscored for e in evaluations), sum(e.unparsable for e in evaluations))
    if unscored:
        yield f"{unscored} of {len(scores)} examples are unscored (the LM, its judge or the network failed; left out)"
        first = next((s.feedback for s in scores if s.score is None and s.feedback), "")
        if first:
            yield f"  the first: {shorten(one_line(first), 300, 1)}"
    if unparsable:
        yield f"{unparsable} of {len(scores)} answers did not parse: they count as wrong"


def _worst(evaluation: Evaluation) -> Iterator[str]:
    imperfect = [s for s in evaluation.scores if s.score is not None and s.score < 1]
    # sorted is stable: among equal scores the order of the split decides.
    shown = sorted(imperfect, key=lambda s: s.score or 0.0)[:WORST]
    if not shown:
        return
    more = f" of {len(imperfect)} that score under 100 %" if len(imperfect) > len(shown) else ""
    yield ""
    yield f"The worst {'example' if len(shown) == 1 else f'{len(shown)} examples'}{more}:"
    for score in shown:
        yield ""
        yield from _example(score)


def _example(score: ExampleScore) -> Iterator[str]:
    kind = ", unparsable" if score.kind == "unparsable" else ""
    yield f"  {shorten(one_line(score.example), 100, 1)}: {percent(score.score)} %{kind}"
    for name, text in (
        ("inputs", score.inputs),
        ("prediction", score.prediction),
        ("feedback", score.feedback),
    ):
        lines = shorten(text, _CHARACTERS, _LINES).split("\n")
        for index, line in enumerate(lines):
            yield f"    {name if index == 0 else '':<10}  {line}".rstrip()
