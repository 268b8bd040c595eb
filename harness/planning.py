"""The plan of one suite in a dry run: its data, its settings and a rehearsal of its program."""

from __future__ import annotations

import random
from collections.abc import Callable

from harness.data import Splits, sample
from harness.errors import DataMissingError, UsageError
from harness.lm.budget import Price
from harness.lm.prices import prices
from harness.lm.request import LMRef
from harness.lm.table import Endpoints
from harness.optimize.plan import SuitePlan, plan_suite
from harness.optimize.rehearse import rehearse
from harness.options import Options
from harness.suites import Suite

__all__ = ["plan_of"]


def plan_of(suite: Suite, options: Options, load: Callable[[Suite], Splits], endpoints: Endpoints) -> SuitePlan:
    """What ``--bt-optimize`` would do for the suite. Raises `HarnessError` where its items would fail for it."""
    lack = "" if options.all else suite.lack(options.lm)
    if lack:
        return SuitePlan(suite.name, options.lm, skipped=lack)
    try:
        splits = load(suite)
        settings = options.settings(suite.settings)
        run = rehearse(suite.program, splits.train, options.lm)
    except DataMissingError as error:
        return SuitePlan(suite.name, options.lm, skipped=str(error))
    known = prices(endpoints)

    def price(model: str) -> Price | None:
        try:
            return known(LMRef(model))
        except UsageError:
            return None

    wanted = (settings.prompt_train, settings.prompt_validation)
    train, validation = sample(splits.train, wanted, random.Random(0))
    plan = SuitePlan(
        suite=suite.name,
        lm=options.lm,
        teacher=options.teacher,
        sizes={name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        searched=(len(train), len(validation)),
        seeds=options.seeds,
    )
    return plan_suite(plan, options.strategies, settings, run, price)
