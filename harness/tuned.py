"""Tuned programs: files that people commit, review, load and ship."""

from __future__ import annotations

import inspect
import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, ParamSpec, TypeVar

from pydantic import BaseModel, Strict, ValidationError

from harness.awaiting import is_asynchronous
from harness.context import Context, Lease, lease_runtime, running
from harness.errors import ParseError, TunedProgramError
from harness.lm.client import Client
from harness.lm.request import Sampling
from harness.modules import Module
from harness.prompt import demo_turns
from harness.signature import Signature
from harness.state import Prompt, State
from harness.trace import Recorder
from harness.train.adapters import CONFIG_FILE, WEIGHTS_FILE, Adapters, is_digest

__all__ = ["Tuned", "TunedFile", "load", "read_tuned", "save_tuned"]

P = ParamSpec("P")
R = TypeVar("R")

SCHEMA = "bt-harness/tuned/1"


@dataclass(frozen=True)
class TunedFile:
    """What a tuned program's file says. ``adapter`` is the folder of its weights, beside the file."""

    program: str
    strategy: str
    state: State
    sampling: Sampling
    scores: Mapping[str, Any]
    adapter: Path | None = None


_Number = Annotated[float, Strict()]
_Count = Annotated[int, Strict()]


class _LM(BaseModel):
    model: str
    adapter: str | None


class _Demo(BaseModel):
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class _Prompt(BaseModel):
    instruction: str | None
    demos: list[_Demo]


class _State(BaseModel):
    lm: _LM
    prompts: dict[str, _Prompt]


class _Sampling(BaseModel):
    temperature: _Number
    top_p: _Number
    max_tokens: _Count
    stop: list[str]


class _Score(BaseModel):
    mean: _Number | None
    examples: _Count


class _File(BaseModel):
    """What a tuned program's file must hold, beside whatever else is in it: people edit such files."""

    program: str
    strategy: str
    state: _State
    sampling: _Sampling
    scores: dict[str, _Score | _Number | str | None]
    adapter: str | None = None


def program_name(program: Callable[..., Any]) -> str:
    """How a tuned file names the program it belongs to: module and function."""
    return f"{getattr(program, '__module__', '?')}.{getattr(program, '__qualname__', '?')}"


def save_tuned(path: Path, tuned: TunedFile, adapters: Adapters) -> None:
    """Write ``path`` and, where the state has an adapter, its weights into ``<name>.adapter/<digest>/`` beside it.

    The weights come first, into a folder of their own, and the file is renamed into place; only then are the weights of
    the program that was there removed. So whatever ends this, a file that is there can be loaded. Raises
    `TunedProgramError` where the place cannot be written.
    """
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "program": tuned.program,
        "strategy": tuned.strategy,
        "state": _finite(tuned.state.to_json(), str),
        "sampling": asdict(tuned.sampling),
        "scores": _finite(dict(tuned.scores), lambda _: None),
    }
    adapter, folder = tuned.state.lm.adapter, path.with_name(f"{path.stem}.adapter")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if adapter is not None and is_digest(adapter):
            adapters.export(adapter, folder / adapter)
            body["adapter"] = f"{folder.name}/{adapter}"
        _replace(path, json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise TunedProgramError(
            f"the tuned program {path} cannot be written ({error.strerror}: {error.filename}); make the place "
            "writable or name another folder (--bt-save=DIR)."
        ) from error
    _remove_others(folder, adapter)


def _finite(value: Any, stand_in: Callable[[float], Any]) -> Any:
    """The value with something in place of each NaN and infinity, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(item, stand_in) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, stand_in) for item in value]
    return stand_in(value) if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _remove_others(folder: Path, kept: str | None) -> None:
    """Remove the weights that a file no longer names, those that lie in the folder itself as they once did included.

    Nothing is lost where that fails, and what is not a tuned program's stays.
    """
    with suppress(OSError):
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            (folder / name).unlink(missing_ok=True)
        for other in folder.iterdir():
            if is_digest(other.name) and other.name != kept:
                shutil.rmtree(other)
        if not any(folder.iterdir()):
            folder.rmdir()


def read_tuned(path: Path) -> TunedFile:
    """Raises `TunedProgramError` naming the file where it is no tuned program."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TunedProgramError(f"the tuned program {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise TunedProgramError(f"{path} is no JSON ({error}); save the tuned program again.") from error
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        raise TunedProgramError(f"{path} is no tuned program of the schema {SCHEMA!r}; save it again with --bt-save.")
    try:
        _File.model_validate(body)
        sampling = body["sampling"]
        return TunedFile(
            program=body["program"],
            strategy=body["strategy"],
            state=State.from_json(body["state"]),
            sampling=Sampling(**{**sampling, "stop": tuple(sampling["stop"])}),
            scores={split: _score(score) for split, score in body["scores"].items()},
            adapter=path.parent / body["adapter"] if body.get("adapter") else None,
        )
    except ValidationError as error:
        first = error.errors()[0]
        part = ".".join(map(str, first["loc"]))
        raise TunedProgramError(
            f"{path} lacks a part of a tuned program ({part}: {first['msg']}); mend that, or save it again."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TunedProgramError(f"{path} lacks a part of a tuned program ({error}); save it again.") from error


def _score(score: Any) -> Any:
    """A split's score as it was saved: the mean of no scored example is NaN."""
    return {**score, "mean": math.nan} if isinstance(score, dict) and score.get("mean", 0) is None else score


def require_program(tuned: TunedFile, program: Callable[..., Any], path: Path) -> None:
    """Raises `TunedProgramError` where the file was saved for a function of another name, or for other modules.

    The modules of a program that can be known before it runs are those in reach of its function; demos of others are
    taken as they are, with a warning where one of those in reach has none, for it may have been renamed.
    """
    wanted, found = (name.rpartition(".")[2] for name in (tuned.program, program_name(program)))
    if wanted != found:
        raise TunedProgramError(f"{path} was tuned for {tuned.program}, not for {program_name(program)}.")
    known = _modules(program)
    bare = sorted({module.name for module in known} - set(tuned.state.prompts))
    for name, prompt in tuned.state.prompts.items():
        problems = [_problem(module, prompt) for module in known if module.name == name]
        if isinstance(program, Module) and not problems:  # it calls no other one
            problems = [f"the module is named {program.signature.name!r} now"]
        if problems and all(problems):
            raise TunedProgramError(
                f"{path} was tuned for another signature of the module {name!r}: {problems[0]}. Tune and save it "
                "again (--bt-optimize --bt-save=DIR)."
            )
        if bare and all(module.name != name for module in known):
            warnings.warn(
                f"{path} has a prompt for the module {name!r}, and no module in the file of {program_name(program)} "
                f"has that name, while {' and '.join(map(repr, bare))} has no prompt. If it was renamed its demos are "
                f"not used: write @module(name={name!r}), or tune and save it again (--bt-optimize --bt-save=DIR).",
                stacklevel=3,
            )


def _modules(program: Callable[..., Any]) -> list[Signature]:
    """The modules of the file that a program is in, or the one that it is itself."""
    if isinstance(program, Module):
        return [program.signature]
    names = getattr(inspect.unwrap(program), "__globals__", {})
    return [value.signature for value in names.values() if isinstance(value, Module)]


def _problem(module: Signature, prompt: Prompt) -> str:
    """Why a module cannot show the demos of a prompt; empty where it can."""
    for number, demo in enumerate(prompt.demos, 1):
        wanted = {"inputs": (module.inputs, demo.inputs), "outputs": (module.outputs, demo.outputs)}
        for kind, (fields, values) in wanted.items():
            missing = [field.name for field in fields if field.name not in values]
            if missing:
                return f"demo {number} has no {missing[0]!r} among its {kind}"
        try:
            demo_turns(module, demo)
        except (ValueError, ParseError) as error:
            return f"demo {number} does not fit ({str(error).splitlines()[0]})"
    return ""


class Tuned(Generic[P, R]):
    """A program bound to a tuned state; called like the program itself, from any thread or task.

    ``lease`` is what keeps the client open.
    """

    def __init__(
        self, program: Callable[P, R], state: State, sampling: Sampling, client: Client, lease: Lease | None = None
    ) -> None:
        self.program, self.state, self.sampling = program, state, sampling
        self._client, self._lease = client, lease
        self.__doc__ = program.__doc__
        self.asynchronous = is_asynchronous(program)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        context = Context(self._client, self.state, self.sampling, recorder=Recorder())
        with running(context):
            result = self.program(*args, **kwargs)
        # A coroutine has not begun yet; and whoever returns one need not look like a coroutine function.
        return self._awaited(context, result) if inspect.isawaitable(result) else result  # type: ignore[return-value]

    async def _awaited(self, context: Context, awaitable: Awaitable[Any]) -> Any:
        with running(context):
            return await awaitable


def load(path: str | Path, program: Callable[P, R], *, lm: str | None = None) -> Tuned[P, R]:
    """The tuned program of a file as a callable.

    ``lm`` puts another model string in place of the saved one (the same weights behind a server, say). Raises
    `TunedProgramError` where the file is damaged or belongs to another program, and `AdapterError` where its
    weights are.
    """
    file = Path(path)
    tuned = read_tuned(file)
    require_program(tuned, program, file)
    lease = lease_runtime()
    runtime = lease.runtime
    if tuned.adapter is not None and tuned.state.lm.adapter is not None:
        runtime.adapters.import_(tuned.adapter, tuned.state.lm.adapter)
    state = tuned.state if lm is None else replace(tuned.state, lm=replace(tuned.state.lm, model=lm))
    return Tuned(program, state, tuned.sampling, runtime.client, lease)
