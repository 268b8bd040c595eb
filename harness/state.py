"""Everything optimization may change about a program: immutable, JSON, identified by its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from harness.lm.request import LMRef, digest_of

__all__ = ["Demo", "Prompt", "State"]


def _frozen(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(values))


@dataclass(frozen=True)
class Demo:
    """One input/output pair shown in a module's prompt, as JSON values. ``outputs`` may hold the reasoning."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", _frozen(self.inputs))
        object.__setattr__(self, "outputs", _frozen(self.outputs))

    def to_json(self) -> dict[str, Any]:
        return {"inputs": dict(self.inputs), "outputs": dict(self.outputs)}


@dataclass(frozen=True)
class Prompt:
    """A module's part of Π. ``instruction`` None is the module's own docstring."""

    instruction: str | None = None
    demos: tuple[Demo, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"instruction": self.instruction, "demos": [demo.to_json() for demo in self.demos]}

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_json())


@dataclass(frozen=True)
class State:
    """⟨Θ, Π⟩: the LM with its adapter, and the prompt of each module that has one other than the original."""

    lm: LMRef
    prompts: Mapping[str, Prompt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", _frozen(self.prompts))

    def prompt(self, module: str) -> Prompt:
        """The prompt of the module of this name; the original one where optimization left it alone."""
        return self.prompts.get(module, _ORIGINAL)

    def with_demos(self, demos: Mapping[str, tuple[Demo, ...]]) -> State:
        """The same weights and instructions with these demos in place of all earlier ones."""
        names = {*self.prompts, *demos}
        prompts = {name: replace(self.prompt(name), demos=demos.get(name, ())) for name in sorted(names)}
        return State(self.lm, {name: prompt for name, prompt in prompts.items() if prompt != _ORIGINAL})

    def with_adapter(self, adapter: str) -> State:
        """The same model with tuned weights, every prompt reset to the original."""
        return State(replace(self.lm, adapter=adapter))

    def to_json(self) -> dict[str, Any]:
        return {
            "lm": {"model": self.lm.model, "adapter": self.lm.adapter},
            "prompts": {name: prompt.to_json() for name, prompt in self.prompts.items()},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> State:
        """Raises `KeyError` or `TypeError` where the value is not the JSON form of a state."""
        prompts = {
            name: Prompt(item["instruction"], tuple(Demo(**demo) for demo in item["demos"]))
            for name, item in value["prompts"].items()
        }
        return State(LMRef(value["lm"]["model"], value["lm"]["adapter"]), prompts)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_json())


_ORIGINAL = Prompt()
