"""The pytest plugin: hooks only. Nothing heavy is imported before a suite is run."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.session import Session

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
    given = (name for name in vars(config.option) if name.startswith("bt_"))
    if any(config.getoption(name) is not None for name in given):
        _session(config)  # wrong values are usage errors, whether or not a suite is found


def _session(config: pytest.Config) -> Session:
    """The run's session, made when the first suite is seen."""
    session = config.stash[_SESSION]
    if session is None:
        from harness.session import Session

        session = config.stash[_SESSION] = Session.of(config)
    return session


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_generate_tests"""
    suite = getattr(metafunc.function, "__bt_suite__", None)
    if suite is not None:
        _session(metafunc.config).parametrize(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_collection_modifyitems"""
    session = config.stash[_SESSION]
    if session is not None:
        session.check(items)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_pyfunc_call"""
    suite = getattr(pyfuncitem.obj, "__bt_suite__", None)
    if suite is None:
        return None
    _session(pyfuncitem.config).run(pyfuncitem, suite)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_runtest_makereport

    What a suite's item found travels with its report, from pytest-xdist's workers too.
    """
    report = yield
    session = item.config.stash[_SESSION]
    if session is not None and call.when == "call":
        found = session.found(item)
        if found is not None:
            setattr(report, _RUN, found)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_sessionfinish"""
    found = session.config.stash[_SESSION]
    if found is not None:
        found.finish()


class _Reports:
    """Registered per run, since `pytest_runtest_logreport` is not told the config."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_runtest_logreport"""
        found: dict[str, Any] | None = getattr(report, _RUN, None)
        if found is not None:
            _session(self._config).add(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """https://docs.pytest.org/en/stable/reference/reference.html#pytest.hookspec.pytest_terminal_summary"""
    session = config.stash[_SESSION]
    writer = terminalreporter._tw
    text = session.report(writer.fullwidth, writer.hasmarkup) if session is not None else ""
    if text:
        terminalreporter.section("LM programs")
        terminalreporter.write(text)
