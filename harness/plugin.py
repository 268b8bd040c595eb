"""The pytest plugin: hooks only. Nothing heavy is imported before a suite is run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.session import Session
    from harness.workers import Ledgers

_SESSION = pytest.StashKey["Session | None"]()
_RUN = "bt_run"


def pytest_addoption(parser: pytest.Parser) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_addoption"""
    from harness.options import add_options

    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_configure"""
    config.stash[_SESSION] = None
    config.pluginmanager.register(_Reports(config), "bt-reports")
    from harness.options import are_given

    if are_given(config):
        _session(config)  # wrong values are usage errors, whether or not a suite is found


def _session(config: pytest.Config) -> Session:
    """The run's session, made when the first suite is seen."""
    session = config.stash[_SESSION]
    if session is None:
        from harness.session import Session

        session = config.stash[_SESSION] = Session.of(config)
    return session


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_generate_tests

    Before fixtures and marks give their parameters, so that the strategy stands first in every id.
    """
    suite = getattr(metafunc.function, "__bt_suite__", None)
    if suite is not None:
        _session(metafunc.config).parametrize(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_collection_modifyitems"""
    session = config.stash[_SESSION]
    if session is not None:
        session.check(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_runtestloop

    A dry run stops here, after collection: its plan is part of the terminal summary.
    """
    found = session.config.stash[_SESSION]
    if found is None or not found.options.dry_run:
        return None
    if session.testsfailed:
        raise session.Interrupted("--bt-dry-run makes no plan after errors during collection")
    found.plan(session.items)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_runtest_setup"""
    suite = getattr(getattr(item, "obj", None), "__bt_suite__", None)
    if suite is not None:
        _session(item.config).setup(item, suite)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_runtest_makereport

    What a suite's item found travels with its report, from pytest-xdist's workers too. A strategy's item passes
    whatever the score is, so that it does is no surprise to an ``xfail`` mark, which is about the gate.
    """
    report = yield
    session = item.config.stash[_SESSION]
    if session is not None and call.when == "call":
        if call.excinfo is None and item.get_closest_marker("xfail") is not None and session.is_strategy(item):
            report.outcome, report.longrepr = "passed", None
            vars(report).pop("wasxfail", None)
        found = session.found(item)
        if found is not None:
            setattr(report, _RUN, found)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_sessionfinish"""
    found = session.config.stash[_SESSION]
    if found is not None and not found.finish():
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


class _Reports:
    """Registered per run, since `pytest_runtest_logreport` is not told the config, and after all installed plugins."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._ledgers: Ledgers | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """https://pytest-xdist.readthedocs.io/en/stable/how-to.html#creating-one-log-file-for-each-worker"""
        from harness.workers import Ledgers

        self._ledgers = self._ledgers or Ledgers()
        self._ledgers.share(node.workerinput)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_pyfunc_call

        Before plugins that call coroutine functions themselves (anyio, say), which know no examples.
        """
        suite = getattr(pyfuncitem.obj, "__bt_suite__", None)
        if suite is None:
            return None
        _session(self._config).run(pyfuncitem, suite)
        return True

    def pytest_keyboard_interrupt(self) -> None:
        """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_keyboard_interrupt

        LM libraries leave a million objects in memory, which pytest and Python would search for garbage a dozen times
        before the process ends.
        """
        if self._config.stash[_SESSION] is not None:
            gc.freeze()

    def pytest_unconfigure(self) -> None:
        """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_unconfigure"""
        if self._ledgers is not None:
            self._ledgers.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_runtest_logreport

        Before the terminal shows the outcome, so that an interrupt loses nothing that was shown.
        """
        found: dict[str, Any] | None = getattr(report, _RUN, None)
        if found is not None:
            _session(self._config).add(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_terminal_summary"""
    session = config.stash[_SESSION]
    writer = terminalreporter._tw
    if session is None:
        return
    encoding = getattr(sys.__stdout__, "encoding", None) or "ascii"
    text = session.report(width=writer.fullwidth, color=writer.hasmarkup, encoding=encoding)
    if text:
        terminalreporter.section("LM programs")
        terminalreporter.write(text)
