"""The plugin's options: declared, read from command line, environment and ini file, and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from harness.errors import UsageError
from harness.optimize.strategy import PAPER_STRATEGIES, Strategy, parse_strategies

if TYPE_CHECKING:
    from harness.lm.budget import Limits
    from harness.optimize.settings import Settings

__all__ = ["Options", "add_options", "are_given"]

DEFAULT_LM = "local/nano"


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Paths of options are relative to the directory pytest was started in, those of the ini file and the default to
    pytest's rootdir.
    """

    optimize: bool
    lm: str
    strategies: tuple[Strategy, ...]
    preset: str
    changes: Mapping[str, str]
    seeds: tuple[int, ...]
    concurrency: int
    store: Path
    save: Path | None
    json: Path | None
    data_dir: Path | None = None
    all: bool = False
    dry_run: bool = False
    teacher: str | None = None
    judge: str | None = None
    limits: Limits | None = None
    loader: str = "auto"

    def settings(self, suite: Mapping[str, Any]) -> Settings:
        """The preset, then the suite's own settings, then ``--bt-set``. Raises `UsageError`."""
        from harness.optimize.settings import settings_from

        return settings_from(self.preset, suite, self.changes)

    @staticmethod
    def of(config: pytest.Config) -> Options:
        """Read and check all options. Raises `pytest.UsageError` saying what is allowed."""
        try:
            return _read(config)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error


_HELP: Mapping[str, tuple[str, str]] = {
    "lm": ("MODEL", f"the LM: local/NAME_OR_PATH or a litellm model string (default: $BT_LM or {DEFAULT_LM})"),
    "strategies": ("LIST", f"strategies to run, with --bt-optimize (default: {PAPER_STRATEGIES})"),
    "preset": ("NAME", "optimization settings: default or paper"),
    "seeds": ("LIST", "seeds of the run; with several, scores are mean and deviation (default: 0)"),
    "concurrency": ("N", "program runs under way at once (default: 32)"),
    "store": ("DIR", "where finished LM calls and adapters are kept (default: .bt)"),
    "save": ("DIR", "write the chosen tuned program of each suite here, with --bt-optimize"),
    "json": ("FILE", "write all figures of the run as JSON"),
    "data-dir": ("DIR", "where data files are, instead of the Hugging Face hub (default: $BT_DATA_DIR)"),
    "teacher": ("MODEL", "the LM whose traces teach, with --bt-optimize (default: the tuned LM itself)"),
    "judge": ("MODEL", "the LM of modules that a metric calls (default: the untuned LM)"),
    "loader": ("NAME", "how local/... models are loaded: auto, unsloth, unsloth-4bit or transformers (default: auto)"),
    "max-calls": ("N", "LM calls that the run may make, retries included; answers from the store are free"),
    "max-tokens": ("N", "tokens that the run may spend, prompts and completions together"),
    "max-cost": ("DOLLARS", "US dollars that the run may spend on LM calls"),
}


def add_options(parser: pytest.Parser) -> None:
    """Declare ``--bt-*`` and the ini keys ``bt_*`` of the same names."""
    group = parser.getgroup("bt", "evaluation and optimization of LM programs")
    group.addoption(
        "--bt-optimize", action="store_true", default=None, help="run the optimization strategies of every suite"
    )
    parser.addini("bt_optimize", "like --bt-optimize", type="bool", default=False)
    group.addoption(
        "--bt-all",
        action="store_true",
        default=None,
        help=f"run suites that {DEFAULT_LM} is too small for as well, with {DEFAULT_LM}",
    )
    parser.addini("bt_all", "like --bt-all", type="bool", default=False)
    group.addoption(
        "--bt-dry-run",
        action="store_true",
        default=None,
        help="print what --bt-optimize would do and cost at most; no LM is called and no test is run",
    )
    for name, (value, text) in _HELP.items():
        group.addoption(f"--bt-{name}", metavar=value, default=None, help=text)
        parser.addini(f"bt_{name.replace('-', '_')}", f"like --bt-{name}", default=None)
    group.addoption(
        "--bt-set",
        metavar="NAME=VALUE",
        action="append",
        default=None,
        help="change one setting of the preset, candidates=6 or rank=32 say; may be repeated",
    )
    parser.addini("bt_set", "like --bt-set, one NAME=VALUE a line", type="linelist", default=[])


def are_given(config: pytest.Config) -> bool:
    """Whether any of the options is set, on the command line or in the ini file."""
    named = ["bt_optimize", "bt_all", "bt_set", *(f"bt_{name.replace('-', '_')}" for name in _HELP)]
    return any(config.getoption(name) is not None or config.getini(name) for name in named) or bool(
        config.getoption("bt_dry_run")
    )


def _require_writable(option: str, path: Path | None, *, folder: bool) -> None:
    """What cannot be written is said before the work, not after it."""
    if path is None:
        return
    if path.exists() and path.is_dir() != folder:
        kind = "a folder" if folder else "a file"
        raise UsageError(f"{option}={path} is not {kind}; name another one.")
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(nearest, os.W_OK) or (nearest != path and not nearest.is_dir()):
        raise UsageError(f"{option}={path} cannot be written, since {nearest} cannot; name another place.")


def _read(config: pytest.Config) -> Options:
    # Here and not above: every pytest run declares the options, few read them.
    from harness.lm.budget import Limits
    from harness.train.loader import check_loader

    def text(name: str, default: str) -> str:
        key = f"bt_{name.replace('-', '_')}"
        given = config.getoption(key)
        return str(given if given is not None else config.getini(key) or default)

    def path(name: str, default: str = "") -> Path | None:
        found = text(name, default)
        is_given = config.getoption(f"bt_{name.replace('-', '_')}") is not None
        base = config.invocation_params.dir if is_given else config.rootpath
        return base / Path(found).expanduser() if found else None

    dry_run = bool(config.getoption("bt_dry_run"))
    optimize = bool(config.getoption("bt_optimize") or config.getini("bt_optimize") or dry_run)
    if dry_run and config.getoption("numprocesses", None):
        raise UsageError("--bt-dry-run makes one plan in one process; add -n 0.")
    save, strategies, preset = path("save"), text("strategies", PAPER_STRATEGIES), text("preset", "default")
    if config.getoption("bt_save") is not None and not optimize:
        raise UsageError("--bt-save writes what optimization found; add --bt-optimize.")
    if config.getoption("bt_teacher") is not None and not optimize:
        raise UsageError("--bt-teacher names the LM that teaches an optimization; add --bt-optimize.")
    if config.getoption("bt_strategies") is not None and not optimize:
        raise UsageError("--bt-strategies names what to optimize; add --bt-optimize.")
    seeds = _numbers("seeds", text("seeds", "0"))
    if config.getoption("bt_seeds") is not None and len(seeds) > 1 and not optimize:
        raise UsageError("--bt-seeds with several seeds repeats an optimization; add --bt-optimize or give one seed.")
    json = path("json")
    _require_writable("--bt-save", save if optimize else None, folder=True)
    _require_writable("--bt-json", json, folder=False)
    changes = dict(_change(part) for part in [*config.getini("bt_set"), *(config.getoption("bt_set") or ())])
    if preset != "default" or changes:  # their check imports pydantic, which no other run should pay for
        from harness.optimize.settings import settings_from

        settings_from(preset, changes)
    return Options(
        optimize=optimize,
        lm=config.getoption("bt_lm") or os.environ.get("BT_LM") or text("lm", DEFAULT_LM),
        strategies=parse_strategies(strategies, _letters()) if optimize else (),
        preset=preset,
        changes=changes,
        seeds=seeds,
        concurrency=_number("concurrency", text("concurrency", "32"), lambda value: value > 0),
        store=path("store", ".bt") or Path(".bt"),
        save=save,
        json=json,
        # The environment ranks between the option and the ini file, and is read where the data is.
        data_dir=path("data-dir") if config.getoption("bt_data_dir") or not os.environ.get("BT_DATA_DIR") else None,
        all=bool(config.getoption("bt_all") or config.getini("bt_all")),
        dry_run=dry_run,
        teacher=text("teacher", "") or None,
        judge=text("judge", "") or None,
        loader=check_loader(config.getoption("bt_loader") or os.environ.get("BT_LOADER") or text("loader", "auto")),
        limits=Limits(
            _limit("max-calls", text("max-calls", ""), int),
            _limit("max-tokens", text("max-tokens", ""), int),
            _limit("max-cost", text("max-cost", ""), float),
        ),
    )


_N = TypeVar("_N", int, float)


def _limit(name: str, text: str, kind: Callable[[str], _N]) -> _N | None:
    """A number of at least 0; None where no limit is given."""
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError:
        value = kind("-1")
    if not 0 <= value < float("inf"):
        example = "0.50" if kind is float else "1000"
        raise UsageError(f"--bt-{name} {text!r} is not allowed; give a number of at least 0, {example} say.")
    return value


def _letters() -> tuple[str, ...]:
    from harness.optimize.steps import STEPS

    return tuple(STEPS)


def _change(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise UsageError(f"--bt-set {text!r} is not NAME=VALUE, as in candidates=6.")
    return name.strip(), value.strip()


def _numbers(name: str, text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_number(name, part, lambda value: value >= 0) for part in text.split(",")))


def _number(name: str, text: str, allowed: Callable[[int], bool]) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not allowed(value):
        raise UsageError(f"--bt-{name} {text.strip()!r} is not allowed; give a whole number, 1 say.")
    return value
