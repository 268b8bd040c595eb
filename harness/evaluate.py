"""A program over examples, concurrently: scores and traces. Failures of an LM are never wrong answers."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import pytest

from harness.awaiting import finished, is_asynchronous
from harness.context import Context, running, within_suite
from harness.data import Example
from harness.errors import BudgetError, HarnessError, LMError, ParseError, SuiteError
from harness.lm.budget import Budget
from harness.lm.client import Client
from harness.lm.request import LMRef, Sampling
from harness.metric import Metric, Verdict
from harness.observe import Observer, watched
from harness.prompt import shown
from harness.results import Evaluation, ExampleScore, Spend
from harness.state import State
from harness.trace import Recorder, Trace

__all__ = ["Evaluator", "Run", "spend_of"]


@dataclass(frozen=True)
class Run:
    """One rollout: what the program called on one example, the metric's word on it and what the metric's LM cost."""

    example: Example
    rollout: int
    trace: Trace
    score: ExampleScore
    judging: Spend = Spend()

    def passes(self, threshold: float) -> bool:
        """Whether the metric gave at least ``threshold`` (the paper's λ)."""
        return self.score.score is not None and self.score.score >= threshold


_Done = Callable[[Run], Run]

# pytest's are no `Exception`: one example's skip would be the whole item's, its gate included.
_RAISED = (Exception, pytest.skip.Exception, pytest.fail.Exception)


class Evaluator:
    """Runs one suite's program with any state. ``concurrency`` bounds the runs that are under way at once.

    ``judge`` is the LM of modules that the metric calls, the untuned LM where it is None; ``budget`` is the one that
    the client's calls are held to.
    """

    def __init__(
        self,
        *,
        suite: str,
        program: Callable[..., Any],
        metric: Metric,
        client: Client,
        sampling: Sampling,
        seed: int = 0,
        concurrency: int = 32,
        observer: Observer,
        judge: LMRef | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.suite, self.client, self.sampling, self.seed = suite, client, sampling, seed
        self._program, self.metric, self._observer = program, metric, observer
        self._concurrency, self._judge, self._budget = concurrency, judge, budget
        self._asynchronous = is_asynchronous(program)
        self._parameters = inspect.signature(program).parameters

    def evaluate(self, state: State, examples: Sequence[Example], split: str, task: str) -> Evaluation:
        """Score ``state`` on every example, in order."""
        with watched(self._observer, task, len(examples)):
            runs = self.run(state, examples, task=task)
        return Evaluation(split, tuple(run.score for run in runs), spend_of(runs))

    def run(
        self,
        state: State,
        examples: Sequence[Example],
        *,
        task: str,
        sampling: Sampling | None = None,
        rollout: int = 0,
        ahead: int = 0,
    ) -> list[Run]:
        """One rollout of the program on every example, in order; ``task`` is the observer's, begun by the caller.

        ``ahead`` is how many further rollouts of the same examples may follow.

        Raises the `LMError` that no later call can escape (a wrong key, an unknown model), and `SuiteError`
        where the program itself raises: an error of its own is neither a wrong answer nor an LM failure.
        Raises `BudgetError` where a call was refused, once all that is under way has ended and is kept.
        """
        refused = self._budget.refused if self._budget is not None else 0
        jobs = [self._job(state, example, sampling or self.sampling, rollout, ahead) for example in examples]
        done = partial(self._advance, task)
        with within_suite():
            runs = self._all_async(jobs, done) if self._asynchronous else self._all_threads(jobs, done)
        if self._budget is not None:
            self._budget.reraise(refused)
        return runs

    def _advance(self, task: str, run: Run) -> Run:
        spend = run.trace.spend + run.judging
        self._observer.advanced(task, 1, spend.cached, spend.prompt_tokens + spend.completion_tokens)
        return run

    def _job(self, state: State, example: Example, sampling: Sampling, rollout: int, ahead: int) -> _Job:
        arguments = {}
        for name, parameter in self._parameters.items():
            if name in example:
                arguments[name] = example[name]
            elif parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                raise SuiteError(
                    f"suite {self.suite!r}: the program's parameter {name!r} is no field of the examples "
                    f"({', '.join(example)}); rename one of them or give the parameter a default."
                )
        context = Context(self.client, state, sampling, rollout, self.seed, Recorder(), ahead)
        return _Job(example, arguments, context)

    def _all_threads(self, jobs: Sequence[_Job], done: _Done) -> list[Run]:
        pool = _threads(self._concurrency)
        return _collect([pool.submit(copy_context().run, self._run, job, done) for job in jobs])

    def _all_async(self, jobs: Sequence[_Job], done: _Done) -> list[Run]:
        async def one(job: _Job, free: asyncio.Semaphore) -> Run:
            async with free:
                return await self._run_async(job, done)

        async def everything() -> list[Run]:
            free = asyncio.Semaphore(self._concurrency)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(job, free)) for job in jobs]
            return [task.result() for task in tasks]

        # A thread of its own, since the caller's may have a running loop already.
        try:
            return _threads(self._concurrency).submit(copy_context().run, asyncio.run, everything()).result()
        except BaseExceptionGroup as group:
            raise _first(group) from group

    def _run(self, job: _Job, done: _Done) -> Run:
        with running(job.context):
            try:
                prediction = self._program(**_copied(job.arguments))
                if inspect.isawaitable(prediction):  # of an ordinary function around a coroutine function
                    prediction = asyncio.run(finished(prediction))
            except _RAISED as error:  # `_failed` raises all that is neither answer nor LM failure
                return done(self._failed(job, error))
        return done(self._judged(job, prediction))

    async def _run_async(self, job: _Job, done: _Done) -> Run:
        with running(job.context):
            try:
                prediction = await self._program(**_copied(job.arguments))
            except _RAISED as error:  # `_failed` raises all that is neither answer nor LM failure
                return done(self._failed(job, error))
        return done(await asyncio.to_thread(self._judged, job, prediction))

    def _judged(self, job: _Job, prediction: Any) -> Run:
        trace = job.context.recorder.trace
        # A judge in the metric is neither the tuned LM nor part of the program's trace.
        lm = self._judge or LMRef(job.context.state.lm.model)
        judge = replace(job.context, state=State(lm), rollout=0, recorder=Recorder())
        try:
            with running(judge):
                verdict = self.metric(Example(_copied(job.example)), prediction, trace)
        except (LMError, BudgetError) as error:
            run = self._failed(job, error)
        except ParseError as error:  # of a module that the metric calls: no fault of the prediction
            run = self._unscored(job, f"the judge's reply does not parse: {error}")
        else:
            run = self._scored(job, verdict, shown(prediction))
        return replace(run, judging=judge.recorder.trace.spend)

    def _scored(self, job: _Job, verdict: Verdict, prediction: str) -> Run:
        score = ExampleScore(
            job.example.digest, verdict.score, "scored", self._inputs(job), prediction, verdict.feedback
        )
        return Run(job.example, job.context.rollout, job.context.recorder.trace, score)

    def _unscored(self, job: _Job, why: str) -> Run:
        score = ExampleScore(job.example.digest, None, "unscored", self._inputs(job), "", why)
        return Run(job.example, job.context.rollout, job.context.recorder.trace, score)

    def _failed(self, job: _Job, error: BaseException) -> Run:
        """The run as a wrong answer or an unscored example; raises where the error is neither."""
        trace = job.context.recorder.trace
        if isinstance(error, ParseError):
            completion = next((c.completion.text for c in reversed(trace.calls) if c.completion), "")
            score = ExampleScore(
                job.example.digest, 0.0, "unparsable", self._inputs(job), shown(completion), str(error)
            )
        elif isinstance(error, BudgetError) or (isinstance(error, LMError) and not error.fatal):
            return self._unscored(job, f"{type(error).__name__}: {error}")
        elif isinstance(error, HarnessError):
            raise error
        else:
            raise SuiteError(
                f"suite {self.suite!r}: the program raised {type(error).__name__}: {error} on the example "
                f"{shown(dict(job.example))}; handle the case in the program (finished LM calls are kept)."
            ) from error
        return Run(job.example, job.context.rollout, trace, score)

    def _inputs(self, job: _Job) -> str:
        return "\n".join(f"{name}: {shown(value)}" for name, value in job.arguments.items())


@dataclass(frozen=True)
class _Job:
    example: Example
    arguments: dict[str, Any]
    context: Context


def _copied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields for one run alone, whatever it does to them: every program and metric sees the row as it was."""
    return {name: _copy_of(value) for name, value in fields.items()}


def _copy_of(value: Any) -> Any:
    """What cannot be copied (a connection, say) is no data, and is shared."""
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 -- a copy is made by the value's own code
        return value


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    """The threads that programs run in, kept from one evaluation to the next: starting them costs more than a call."""
    return ThreadPoolExecutor(number, thread_name_prefix="bt-run")


def spend_of(runs: Iterable[Run]) -> Spend:
    """What the runs cost together."""
    total = Spend()
    for run in runs:
        total += run.trace.spend + run.judging
    return total


def _collect(futures: Sequence[Future[Run]]) -> list[Run]:
    """All results in order; at the first exception, or Ctrl-C, what has not begun is cancelled."""
    try:
        finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failed = next((f for f in futures if f in finished and f.exception() is not None), None)
        if failed is not None:
            failed.result()
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
