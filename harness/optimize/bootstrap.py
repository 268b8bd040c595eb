"""Traces of the current program that pass the metric: what both kinds of optimization learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.data import Example
from harness.evaluate import Run, spend_of
from harness.observe import watched
from harness.optimize.bench import Bench
from harness.prompt import shown
from harness.results import Spend
from harness.state import State

__all__ = ["Bootstrap", "bootstrap"]


_HOTTER_FROM = 6
"""The rollout from which on, counted from 0, the temperature is doubled."""


@dataclass(frozen=True)
class Bootstrap:
    """The passing runs, one per example at most, in the order of the examples, and how many examples were tried.

    Of the ``made`` runs ``unscored`` failed with the LM or its judge, the first of them for the reason ``failure``, and
    ``cut`` passed with a completion that ``max_tokens`` cut off: nothing is learned from those.
    """

    runs: tuple[Run, ...]
    tried: int
    spend: Spend
    teacher: str = ""
    made: int = 0
    unscored: int = 0
    failure: str = ""
    cut: int = 0

    @property
    def summary(self) -> str:
        whose = f" of {self.teacher}" if self.teacher else ""
        found = f"{len(self.runs)} of {self.tried} examples have a passing trace{whose}"
        if self.unscored:
            found += f" ({self.unscored} of {self.made} runs could not be scored: {self.failure})"
        if self.cut:
            found += f" ({self.cut} of {self.made} runs passed with a completion that was cut off: raise max_tokens)"
        return found


def bootstrap(state: State, examples: Sequence[Example], bench: Bench, task: str) -> Bootstrap:
    """Run ``state`` on the examples until each has a passing trace or has had ``rollouts`` tries.

    The first try is the program as it is. Later ones sample hotter, since a greedy LM repeats itself and an LM
    that prefers one answer would yield traces of that answer alone; from the seventh on twice as hot, for answers that
    the LM hardly ever gives. A trace with a completion that was cut off does not count as passing: demos and training
    would teach the LM not to end. Where the bench has a teacher, it runs in the program's place, with the original
    prompts.
    """
    settings = bench.settings
    if bench.teacher is not None:
        state = State(bench.teacher)
    passing: dict[int, Run] = {}
    spend = Spend()
    made, cut, failures = 0, 0, []
    words = f"{task}: traces"
    with watched(bench.observer, words):
        for rollout in range(settings.rollouts):
            missing = [place for place in range(len(examples)) if place not in passing]
            if not missing:
                break
            sampling, ahead = settings.sampling, 0
            if rollout:
                late = rollout >= _HOTTER_FROM
                ahead = (settings.rollouts if late else min(_HOTTER_FROM, settings.rollouts)) - 1 - rollout
                hot = settings.rollout_temperature * (2 if late else 1)
                sampling = replace(sampling, temperature=max(sampling.temperature, hot))
            tried = [examples[place] for place in missing]
            runs = bench.evaluator.run(state, tried, task=words, sampling=sampling, rollout=rollout, ahead=ahead)
            spend += spend_of(runs)
            made += len(runs)
            failures += [run.score.feedback for run in runs if run.score.score is None]
            passed = {place: run for place, run in zip(missing, runs, strict=True) if run.passes(settings.passing)}
            whole = {place: run for place, run in passed.items() if not run.trace.cut}
            cut += len(passed) - len(whole)
            passing |= whole
    teacher = bench.teacher.model if bench.teacher is not None else ""
    return Bootstrap(
        runs=tuple(passing[place] for place in sorted(passing)),
        tried=len(examples),
        spend=spend,
        teacher=teacher,
        made=made,
        unscored=len(failures),
        failure=shown(" ".join(failures[0].split())) if failures else "",
        cut=cut,
    )
