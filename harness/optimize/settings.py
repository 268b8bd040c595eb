"""The settings of the optimization loop, with the paper's meaning, and the presets that name whole sets of them."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.errors import UsageError
from harness.lm.request import Sampling
from harness.train.job import LoraSettings

__all__ = ["PRESETS", "Settings", "settings_from"]


@dataclass(frozen=True)
class Settings:
    """How `p` and `w` work.

    ``candidates`` demo subsets are drawn beside the zero-demo prompt, each with at most ``demos`` demos per module.
    ``prompt_train`` and ``prompt_validation`` are the examples that prompt optimization draws from the training
    split. An example without a passing trace is run up to ``rollouts`` times, from the second on at
    ``rollout_temperature``, from the seventh on at twice that. A trace passes with a score of at least ``passing``
    (the paper's λ). With ``constrain`` a local LM chooses among the replies of a module whose output is a
    ``Literal``, an ``Enum`` or ``bool``. With ``structured`` an LM that can be held to a JSON schema replies with a
    JSON object; others go on replying with text.
    """

    candidates: int = 12
    demos: int = 12
    rollouts: int = 12
    rollout_temperature: float = 1.0
    passing: float = 1.0
    prompt_train: int = 100
    prompt_validation: int = 250
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    constrain: bool = True
    structured: bool = False
    lora: LoraSettings = field(default_factory=LoraSettings)

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            self.temperature, self.top_p, self.max_tokens, constrain=self.constrain, structured=self.structured
        )


PRESETS: Mapping[str, Settings] = {
    "default": Settings(),
    # Soylu et al. 2024, section 4 and appendix: see docs/paper.md.
    "paper": Settings(
        candidates=6,
        demos=3,
        rollouts=1,
        temperature=0.1,
        top_p=0.97,
        max_tokens=1024,
        constrain=False,
        lora=LoraSettings(
            rank=32,
            alpha=64,
            target_modules=("q_proj", "k_proj"),
            learning_rate=1e-5,
            epochs=5,
            min_steps=0,
            batch_size=8,
        ),
    ),
}

_LORA = {item.name for item in fields(LoraSettings)}
_OWN = {item.name for item in fields(Settings)} - {"lora"}
_AT_LEAST_0, _AT_LEAST_1, _SHARE = Field(ge=0), Field(ge=1), Field(ge=0, le=1)
_ALLOWED: Mapping[str, Any] = {
    "candidates": _AT_LEAST_0, "demos": _AT_LEAST_0, "rollouts": _AT_LEAST_1, "rollout_temperature": _AT_LEAST_0,
    "passing": _SHARE, "prompt_train": _AT_LEAST_1, "prompt_validation": _AT_LEAST_1, "temperature": _AT_LEAST_0,
    "top_p": Field(gt=0, le=1), "max_tokens": _AT_LEAST_1, "rank": _AT_LEAST_1, "alpha": _AT_LEAST_1,
    "dropout": Field(ge=0, lt=1), "learning_rate": Field(gt=0), "epochs": _AT_LEAST_0, "min_steps": _AT_LEAST_0,
    "batch_size": _AT_LEAST_1, "warmup_ratio": _SHARE, "max_length": _AT_LEAST_1,
}  # fmt: skip


def settings_from(preset: str, *changes: Mapping[str, Any]) -> Settings:
    """A preset with changes by name, later ones first in rank. LoRA's settings go by their own names (``rank``).

    Values may be text, as options give them. Raises `UsageError` naming the setting and what is allowed.
    """
    if preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    settings = PRESETS[preset]
    for change in changes:
        own = {name: _value(Settings, name, value) for name, value in change.items() if name in _OWN}
        lora = {name: _value(LoraSettings, name, value) for name, value in change.items() if name in _LORA}
        unknown = set(change) - set(own) - set(lora)
        if unknown:
            raise UsageError(
                f"there is no setting {sorted(unknown)[0]!r}; settings are {', '.join(sorted(_OWN | _LORA))}."
            )
        settings = replace(settings, **own, lora=replace(settings.lora, **lora))
    return settings


def _value(owner: type, name: str, value: Any) -> Any:
    allowed: Any = Annotated[typing.get_type_hints(owner)[name], _ALLOWED.get(name)]
    if name == "target_modules" and isinstance(value, str) and "," in value:
        value = tuple(part.strip() for part in value.split(","))
    try:
        return TypeAdapter(allowed, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        raise UsageError(f"the setting {name}={value!r} is not allowed: {error.errors()[0]['msg']}.") from error


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings as plain JSON, for digests and reports."""
    return asdict(settings)
