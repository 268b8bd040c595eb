"""What a program run called, in order, recorded through a context variable."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import ModuleDefinitionError
from harness.lm.request import Completion, Request
from harness.results import Spend
from harness.signature import Signature

__all__ = ["ModuleCall", "Recorder", "Trace"]


@dataclass(frozen=True)
class ModuleCall:
    """One LM call of a module: what was asked, the raw completion and, where it parsed, the outputs as JSON.

    ``outputs`` is None where the completion did not parse, ``completion`` where the LM failed.
    """

    signature: Signature
    inputs: Mapping[str, Any]
    request: Request
    completion: Completion | None = None
    outputs: Mapping[str, Any] | None = None
    cached: bool = False

    @property
    def module(self) -> str:
        return self.signature.name


@dataclass(frozen=True)
class Trace:
    """The module calls of one program run, in the order in which they were started."""

    calls: tuple[ModuleCall, ...] = ()

    @property
    def cut(self) -> bool:
        """Whether ``max_tokens`` cut off a completion that was read all the same."""
        read = [call.completion for call in self.calls if call.outputs is not None]
        return any(completion is not None and completion.finish == "length" for completion in read)

    @property
    def spend(self) -> Spend:
        total = Spend()
        for call in self.calls:
            if call.completion is None:
                continue
            if call.cached:
                total += Spend(cached=1)
            else:
                usage = call.completion.usage
                total += Spend(calls=1, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        return total


class Recorder:
    """Collects the calls of one run. They may overlap (``asyncio.gather``, threads of the program's own)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[ModuleCall] = []
        self._modules: dict[str, Signature] = {}
        self._asked: Counter[str] = Counter()

    def start(self, call: ModuleCall) -> int:
        """Reserve the call's place in the trace.

        Raises `ModuleDefinitionError` where another module of this run has the same name: they would share a
        prompt.
        """
        with self._lock:
            if self._modules.setdefault(call.module, call.signature) is not call.signature:
                raise ModuleDefinitionError(
                    f"two modules of the program are named {call.module!r}; tell them apart by @module(name=...)."
                )
            self._calls.append(call)
            return len(self._calls) - 1

    def repeat(self, request: Request) -> int:
        """How often this run asked the same before: a program that asks twice wants two samples."""
        with self._lock:
            self._asked[request.digest] += 1
            return self._asked[request.digest] - 1

    def finish(self, place: int, **changes: Any) -> None:
        self._calls[place] = replace(self._calls[place], **changes)

    @property
    def trace(self) -> Trace:
        return Trace(tuple(self._calls))
