"""One pytest run: which items a suite has, what each of them does, and what is reported at the end."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import BudgetError, DataMissingError, HarnessError, LMError, SuiteError, UsageError
from harness.items import file_name, home_of, key_of, name_of
from harness.optimize.strategy import VANILLA, Strategy, parse_strategy, strategy_id, strategy_text
from harness.options import Options
from harness.report.safe import plain
from harness.sources import use_data_dir
from harness.suites import METRIC_INPUTS, Suite, suite_of
from harness.workers import endpoints_of, ledger_of

if TYPE_CHECKING:
    from harness.data import Splits
    from harness.evaluate import Evaluator
    from harness.lm.request import LMRef
    from harness.observe import Observer
    from harness.optimize.plan import SuitePlan
    from harness.optimize.together import Together
    from harness.report.progress import Progress
    from harness.results import GateResult, StrategyResult, SuiteRun
    from harness.runtime import Runtime
    from harness.state import State
    from harness.tuned import TunedFile

__all__ = ["Session"]

BEST = "best"
"""Id of the item that chooses among a suite's strategies, judges the gate and saves."""

TUNED_FOLDER = "tuned"
"""Beside a suite's file: the committed tuned programs."""

_FOUND = pytest.StashKey[dict[str, Any]]()

_METRIC = pytest.StashKey[Any]()
"""The test function as it was written: pytest-asyncio puts one in its place that a single thread can call."""

# Warnings of libraries that users did not call themselves; a project's own "error" filter is not meant for them.
_LIBRARIES = r"(accelerate|aiohttp|datasets|huggingface_hub|litellm|openai|peft|pydantic|torch|transformers|trl)\b"


class Session:
    """The life cycle of one run. In pytest-xdist each worker has one; the controller's only reports."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config, self.options = config, options
        use_data_dir(options.data_dir)
        self._runtime: Runtime | None = None
        self._splits: dict[str, Splits | DataMissingError] = {}
        self._together: dict[tuple[str, int], Together] = {}
        self._progress: Progress | None = None
        self._runs: list[dict[str, Any]] = []
        self._kept: set[tuple[str, str]] = set()
        self._plans: tuple[SuitePlan, ...] = ()
        self._unwritten = ""

    @classmethod
    def of(cls, config: pytest.Config) -> Session:
        """Raises `pytest.UsageError` for an option that is not allowed."""
        return cls(config, Options.of(config))

    # Collection

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        """Give the metric's own arguments their place: one item when evaluating, one per strategy otherwise."""
        names = [name for name in METRIC_INPUTS if name in metafunc.fixturenames]
        ids: list[Any] = [pytest.HIDDEN_PARAM]
        if self.options.optimize:
            ids = [*map(strategy_id, self.options.strategies), BEST]
        metafunc.parametrize(names, [pytest.param(*[key] * len(names), id=key) for key in ids], scope="function")

    def check(self, items: Sequence[pytest.Item]) -> None:
        """Raises `pytest.UsageError` for an LM that is none, and for two suites of one name."""
        homes: dict[str, str] = {}
        for item in items:
            suite = suite_of(getattr(item, "obj", None))
            if suite is None or not isinstance(item, pytest.Function):
                continue
            if not hasattr(item, "callspec"):
                raise pytest.UsageError(
                    f"{item.nodeid}: a method of unittest.TestCase cannot be a suite; make it a function or a method "
                    "of a plain class."
                )
            home, name = home_of(item), name_of(item, suite)
            other = homes.setdefault(name, home)
            if other != home:
                raise pytest.UsageError(
                    f"two suites are named {name!r}: {other} and {home}. Rename one, or import its module where one is "
                    "imported: reports and tuned programs go by the name."
                )
        if homes:
            try:
                self._check_lm()
                endpoints_of(self._config)
            except (LMError, UsageError) as error:
                raise pytest.UsageError(str(error)) from error

    def _check_lm(self) -> None:
        from harness.lm.providers import check_model

        for model in (self.options.lm, self.options.teacher, self.options.judge):
            if model is None:
                continue
            check_model(model)
            if model.startswith("local/"):
                from harness.lm.local import LocalProvider

                LocalProvider(model).close()

    def plan(self, items: Sequence[pytest.Item]) -> None:
        """Work out what the suites' items would do; `report` then shows it. No LM is called."""
        from harness.planning import plan_of

        found: dict[str, SuitePlan] = {}
        for item in items:
            suite = suite_of(getattr(item, "obj", None))
            if suite is None or not isinstance(item, pytest.Function) or name_of(item, suite) in found:
                continue
            suite = replace(suite, name=name_of(item, suite))
            try:
                found[suite.name] = plan_of(suite, self.options, self._data, endpoints_of(self._config))
            except HarnessError as error:
                raise pytest.UsageError(f"{type(error).__name__}: {error}") from error
        self._plans = tuple(found.values())

    # Items

    def setup(self, item: pytest.Item, suite: Suite) -> None:
        """Skip an item whose suite is not for the LM in use, before anything is loaded for it."""
        item.stash[_METRIC] = getattr(item, "obj", None)
        lack = suite.lack(self.options.lm)
        if lack and not self.options.all:
            raise pytest.skip.Exception(lack, _use_item_location=True)

    def run(self, item: pytest.Function, suite: Suite) -> None:
        """Run one item; its outcome is pytest's: an exception fails it, a skip shows the reason."""
        suite = replace(suite, name=name_of(item, suite))
        key = key_of(item)
        try:
            with self._quietly(), self._shown():
                if not self.options.optimize:
                    self._evaluate(item, suite)
                elif key == BEST:
                    self._choose(item, suite)
                else:
                    self._strategy(item, suite, parse_strategy(str(key), _letters()))
        except DataMissingError as error:
            raise _skipped(str(error)) from None
        except HarnessError as error:
            if isinstance(error, BudgetError):
                self._leave_out(item, suite, str(key), error)
            if isinstance(error, LMError) and error.fatal:  # every later call would fail like this one
                item.session.shouldstop = plain(f"{error}")
            raise _failed(f"{type(error).__name__}: {error}") from None

    def _evaluate(self, item: pytest.Function, suite: Suite) -> None:
        """Score the committed tuned program, or the untuned one, on test and judge the gate."""
        tuned, note = self._committed(item, suite)
        evaluator = self._evaluator(item, suite, self.options.seeds[0])
        state, strategy = self._start(), "vanilla"
        if tuned is not None:
            state, strategy = tuned.state, tuned.strategy
            evaluator.sampling = tuned.sampling
        test = evaluator.evaluate(state, self._data(suite).test, "test", f"{suite.name}: test")
        from harness.results import StrategyResult, SuiteRun

        result = StrategyResult(
            suite=suite.name,
            strategy=strategy,
            seed=self.options.seeds[0],
            lm=self.options.lm,
            test=test,
            spend=test.spend,
            state=state.to_json(),
            reference=suite.reference(strategy, self.options.lm),
        )
        gate = self._gate(suite, [result])
        self._keep(item, SuiteRun(suite.name, (result,), gate, note=note))
        self._judge(suite, gate, [result])

    def _strategy(self, item: pytest.Function, suite: Suite, strategy: Strategy) -> None:
        """One strategy with every seed: the item passes where there are scores, whatever they are."""
        from harness.results import SuiteRun

        results = self._results(item, suite, strategy)
        self._keep(item, SuiteRun(suite.name, tuple(results)))
        scored = [result.test for result in results if result.test is not None]
        if not scored:
            raise _skipped(f"no score: {results[0].reason}")
        if too_few := self._too_few_scored(suite, results):
            raise _failed(too_few)

    def _choose(self, item: pytest.Function, suite: Suite) -> None:
        """Choose by validation among all strategies, judge the gate on test, save the tuned program."""
        from harness.optimize.together import choose
        from harness.results import SuiteRun

        by_strategy = {s: self._results(item, suite, s) for s in self.options.strategies}
        chosen = choose(list(by_strategy.values()), suite.max_unscored)
        if not chosen:
            raise SuiteError(
                f"suite {suite.name!r}: no strategy has a score to choose by, with at most "
                f"max_unscored={suite.max_unscored:g} of the validation examples unscored."
            )
        gate = self._gate(suite, chosen)
        # Items of other strategies may have been left out, failed in their fixtures, or run in another process.
        extra = [r for results in by_strategy.values() for r in results if (r.suite, r.strategy) not in self._kept]
        try:
            if self.options.save is not None and not self._unfit(suite, chosen):
                scored = [result for result in chosen if result.validation and result.validation.values]
                best = max(scored, key=lambda result: result.validation.mean if result.validation else 0.0)
                gate = replace(gate, saved=str(self._save(suite, best, self.options.save)))
        finally:
            self._keep(item, SuiteRun(suite.name, tuple(extra), gate))
        self._judge(suite, gate, chosen)

    def _leave_out(self, item: pytest.Function, suite: Suite, key: str, error: BudgetError) -> None:
        """Report what the item has so far, and what it had no budget left for."""
        from harness.results import LeftOut, StrategyResult, SuiteRun

        results = []
        strategy = VANILLA
        if self.options.optimize and key != BEST:
            strategy = parse_strategy(key, _letters())
        elif not self.options.optimize and (tuned := self._committed(item, suite)[0]) is not None:
            strategy = parse_strategy(tuned.strategy, _letters())
        for seed in self.options.seeds if key != BEST else ():
            loop = self._together.get((suite.name, seed))
            missing = StrategyResult(
                suite.name, strategy_text(strategy), seed, self.options.lm, reason=f"left out: {error}"
            )
            results.append((loop and loop.finished(strategy)) or missing)
        what = BEST if key == BEST else strategy_text(strategy)
        self._keep(item, SuiteRun(suite.name, tuple(results), left_out=LeftOut(what, str(error))))

    def _results(self, item: pytest.Function, suite: Suite, strategy: Strategy) -> list[StrategyResult]:
        reference = suite.reference(strategy_text(strategy), self.options.lm)
        return [self._loop(item, suite, seed).result(strategy, reference) for seed in self.options.seeds]

    def _judge(self, suite: Suite, gate: GateResult, results: Sequence[StrategyResult]) -> None:
        """Fail the item where the gate did; ``results`` are the chosen strategy's, one for each seed."""
        if unfit := self._unfit(suite, results):
            raise _failed(unfit)
        if not gate.passed:
            from harness.report.failure import failure_text
            from harness.stats import Interval

            tests = [result.test for result in results if result.test is not None]
            worst = min(tests, key=lambda test: (bool(test.values), test.mean))  # NaN where nothing is scored
            bounds = None if isnan(gate.score) else Interval(gate.score, gate.low, gate.high)
            text = failure_text(worst, bounds, suite.threshold, gate.strategy, suite.name, seeds=tests)
            raise _failed(text)

    def _unfit(self, suite: Suite, results: Sequence[StrategyResult]) -> str:
        """Why a strategy's results, by seed, can pass no gate whatever their mean; empty where they can."""
        for result in results:
            if result.test is None:
                return f"suite {suite.name!r} [{result.strategy}]: no score with seed {result.seed}: {result.reason}"
        return self._too_few_scored(suite, results)

    def _too_few_scored(self, suite: Suite, results: Sequence[StrategyResult]) -> str:
        """A complaint about the first split of which too many examples are unscored; empty where there is none."""
        for result in results:
            for split in (result.test, result.validation):
                if split is not None and split.unscored_share > suite.max_unscored:
                    first = next(score.feedback for score in split.scores if score.score is None)
                    return (
                        f"suite {suite.name!r} [{result.strategy}]: {split.unscored} of {len(split.scores)} "
                        f"{split.split} examples are unscored, more than max_unscored={suite.max_unscored:g} allows. "
                        f"The first failed with {first}"
                    )
        return ""

    def _gate(self, suite: Suite, results: Sequence[StrategyResult]) -> GateResult:
        """The mean test score over seeds, with the interval of the examples' scores, against the threshold."""
        from harness.report.summary import score_of
        from harness.results import GateResult

        score = score_of([result.test for result in results])
        mean, low, high = (score.mean, score.low, score.high) if score else (float("nan"),) * 3
        passed = score is not None and not self._unfit(suite, results)
        passed = passed and (suite.threshold is None or mean >= suite.threshold)
        return GateResult(suite.name, results[0].strategy, mean, low, high, suite.threshold, passed)

    def _save(self, suite: Suite, result: StrategyResult, folder: Path) -> Path:
        from harness.state import State
        from harness.tuned import TunedFile, program_name, save_tuned

        path = folder / file_name(suite.name)
        scores = {
            split.split: {"mean": split.mean, "examples": len(split.scores), "unscored": split.unscored}
            for split in (result.validation, result.test)
            if split is not None
        }
        state, runtime = State.from_json(result.state), self._opened()
        sampling = self.options.settings(suite.settings).sampling
        # What was done, not what was asked for: whoever reads the file does not know this project's LM table.
        structured = sampling.structured and runtime.client.takes_schema(state.lm.model)
        tuned = TunedFile(
            program=program_name(suite.program),
            strategy=result.strategy,
            state=state,
            sampling=replace(sampling, structured=structured),
            scores={**scores, "seed": result.seed},
        )
        if runtime.store is None:
            raise AssertionError("a pytest run has a store")
        # A run with another seed would remove the weights that this one's file is about to name.
        with runtime.store.lock(f"saving-{path.resolve()}"):
            save_tuned(path, tuned, runtime.adapters)
        return path

    # What items share

    def _opened(self) -> Runtime:
        if self._runtime is None:
            from harness.runtime import Runtime

            self._runtime = Runtime.open(
                self.options.store,
                endpoints=endpoints_of(self._config),
                limits=self.options.limits,
                ledger=ledger_of(self._config),
                loader=self.options.loader,
            )
        return self._runtime

    def _data(self, suite: Suite) -> Splits:
        """The suite's splits, loaded once. Data that is missing is not looked for again: that may take a while."""
        if suite.name not in self._splits:
            from harness.data import load_splits

            try:
                self._splits[suite.name] = load_splits(suite.data, suite.name, suite.stratify)
            except DataMissingError as error:
                self._splits[suite.name] = error
        found = self._splits[suite.name]
        if isinstance(found, DataMissingError):
            raise found
        return found

    def _start(self) -> State:
        from harness.lm.request import LMRef
        from harness.state import State

        return State(LMRef(self.options.lm))

    def _evaluator(self, item: pytest.Function, suite: Suite, seed: int) -> Evaluator:
        from harness.evaluate import Evaluator
        from harness.metric import Metric

        fixtures = {name: value for name, value in item.funcargs.items() if name not in METRIC_INPUTS}
        return Evaluator(
            suite=suite.name,
            program=suite.program,
            metric=Metric(item.stash[_METRIC], suite.name, fixtures),
            client=self._opened().client,
            budget=self._opened().budget,
            judge=_lm(self.options.judge),
            sampling=self.options.settings(suite.settings).sampling,
            seed=seed,
            concurrency=self.options.concurrency,
            observer=self._observer(),
        )

    def _loop(self, item: pytest.Function, suite: Suite, seed: int) -> Together:
        """The suite's prefix tree for a seed; it outlives the item, so that no edge is taken twice."""
        key = (suite.name, seed)
        if key not in self._together:
            from harness.optimize.bench import Bench
            from harness.optimize.together import Together

            runtime = self._opened()
            if runtime.store is None:
                raise AssertionError("a pytest run has a store")
            observer = self._observer()
            bench = Bench(
                evaluator=self._evaluator(item, suite, seed),
                splits=self._data(suite),
                settings=self.options.settings(suite.settings),
                seed=seed,
                train=lambda job, task: runtime.train(job, task, observer),
                observer=observer,
                stratify=suite.stratify,
                teacher=_lm(self.options.teacher),
            )
            self._together[key] = Together(bench, self._start(), runtime.store)
        loop = self._together[key]
        # Function-scoped fixtures are the item's own, and so is its metric.
        loop.bench.evaluator.metric = self._evaluator(item, suite, seed).metric
        return loop

    def _committed(self, item: pytest.Function, suite: Suite) -> tuple[TunedFile | None, str]:
        """The tuned program beside the suite's file, where it was made for the LM in use; else why it was not taken."""
        path = item.path.parent / TUNED_FOLDER / file_name(suite.name)
        if not path.is_file():
            return None, ""
        from harness.tuned import read_tuned, require_program

        tuned = read_tuned(path)
        if (made_for := tuned.state.lm.model) != (lm := self.options.lm):
            return None, f"{suite.name}: untuned, since {TUNED_FOLDER}/{path.name} is for {made_for}, not {lm}."
        require_program(tuned, suite.program, path)
        if tuned.adapter is not None and tuned.state.lm.adapter is not None:
            self._opened().adapters.import_(tuned.adapter, tuned.state.lm.adapter)
        return tuned, ""

    # Showing

    def _observer(self) -> Observer:
        if self._progress is None:
            from harness.report.progress import progress_for

            capture = self._config.pluginmanager.get_plugin("capturemanager")
            # Who asks for no color wants no other control sequences either: pytest then writes none.
            plain = self._config.getoption("color", "auto") == "no"
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                self._progress = progress_for(sys.__stdout__ or sys.stdout, quiet=self._is_quiet(), plain=plain)
        return self._progress

    def _is_quiet(self) -> bool:
        """In a worker, without a terminal reporter, and with -q nobody wants to see progress."""
        config = self._config
        return (
            hasattr(config, "workerinput")
            or not config.pluginmanager.has_plugin("terminalreporter")
            or config.get_verbosity() < 0
        )

    @contextmanager
    def _shown(self) -> Iterator[None]:
        self._observer()
        with self._progress or nullcontext():
            yield

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_LIBRARIES)
            yield

    def _keep(self, item: pytest.Item, run: SuiteRun) -> None:
        from harness.report.junit import user_properties

        item.stash[_FOUND] = run.to_json()
        self._kept.update((result.suite, result.strategy) for result in run.results)
        item.user_properties.extend(user_properties(run))

    def is_strategy(self, item: pytest.Item) -> bool:
        """Whether it is one strategy's item, which has no gate to pass."""
        if not self.options.optimize or not isinstance(item, pytest.Function) or suite_of(item.obj) is None:
            return False
        return bool(key_of(item) != BEST)

    def found(self, item: pytest.Item) -> Mapping[str, Any] | None:
        """What an item found, as JSON for its report."""
        return item.stash.get(_FOUND, None)

    def add(self, found: dict[str, Any]) -> None:
        """Take up what an item's report carries, from whichever worker."""
        self._runs.append(found)

    def report(self, *, width: int, color: bool, encoding: str) -> str:
        """The tables of all suites, or their plan, as a terminal can show them; empty where no suite is."""
        if self._plans:
            from harness.report.plan import plan_tables
            from harness.report.table import render

            ascii_only = not encoding.lower().startswith("utf")
            return render(plan_tables(self._plans), width=width, color=color, ascii_only=ascii_only)
        if not self._runs:
            return self._unwritten
        from harness.report.left_out import left_out_text
        from harness.report.safe import one_line
        from harness.report.table import render, suite_table
        from harness.results import SuiteRun

        runs = [SuiteRun.from_json(found) for found in self._runs]
        ascii_only = not encoding.lower().startswith("utf")
        missing = left_out_text(runs) + "".join(f"{one_line(run.note)}\n" for run in runs if run.note)
        missing += self._unwritten
        table = render(suite_table(runs), width=width, color=color, ascii_only=ascii_only)
        return table + (missing.encode("ascii", "replace").decode() if ascii_only else missing)

    def finish(self) -> bool:
        """Write the JSON report and close what was opened; called however the run ended.

        False where the report could not be written; why is then part of what is shown.
        """
        try:
            is_mine = not self.options.dry_run and not hasattr(self._config, "workerinput")
            if self.options.json is not None and is_mine:
                from harness.report.json_report import write_json
                from harness.results import SuiteRun

                write_json(self.options.json, [SuiteRun.from_json(found) for found in self._runs])
        except OSError as error:
            self._unwritten = (
                f"--bt-json={self.options.json} could not be written ({error.strerror or error}). Run again with "
                "another file: what was found is in the store.\n"
            )
        finally:
            if self._runtime is not None:
                self._runtime.close()
                self._runtime = None
        return not self._unwritten


def _failed(text: str) -> BaseException:
    """A failure that says ``text``, which a server, an LM or a program may have a part in, and nothing else."""
    return pytest.fail.Exception(plain(text), pytrace=False)


def _skipped(text: str) -> BaseException:
    """A skip for the reason ``text``, likewise."""
    return pytest.skip.Exception(plain(text), _use_item_location=True)


def _lm(model: str | None) -> LMRef | None:
    from harness.lm.request import LMRef

    return LMRef(model) if model is not None else None


def _letters() -> tuple[str, ...]:
    from harness.optimize.steps import STEPS

    return tuple(STEPS)
