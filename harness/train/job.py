"""What weight optimization is asked for and what it reports: plain values, the same for every trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from harness.lm.request import LMRef, Message, digest_of

if TYPE_CHECKING:
    from harness.train.adapters import Adapters

__all__ = [
    "ChatExample",
    "LoraSettings",
    "Progress",
    "Schedule",
    "ServedTrainer",
    "Trained",
    "Trainer",
    "TrainingJob",
    "TrainingResult",
]


@dataclass(frozen=True, slots=True)
class ChatExample:
    """One prompt and the completion to learn; the loss falls on the completion and its end of turn alone."""

    messages: tuple[Message, ...]
    completion: str


Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]
"""How the learning rate goes on after the warmup: those of transformers' schedules that need no further setting."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """LoRA fine-tuning (Hu et al. 2021, arXiv 2106.09685) with the names PEFT and TRL give the settings.

    ``batch_size`` is the effective one, in examples; ``target_modules`` is PEFT's, ``all-linear`` included.
    ``learning_rate`` None goes by the model's width (see `harness.train.sft`). Training lasts ``epochs``, or
    ``min_steps`` where that is longer: a handful of traces in a few epochs would hardly move the weights.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    learning_rate: float | None = None
    epochs: float = 5.0
    min_steps: int = 120
    batch_size: int = 8
    warmup_ratio: float = 0.05
    schedule: Schedule = "linear"
    max_length: int = 4096


@dataclass(frozen=True)
class TrainingJob:
    """One fine-tuning: ``lm`` names the model and, where training continues, the adapter to start from."""

    lm: LMRef
    examples: tuple[ChatExample, ...]
    settings: LoraSettings
    seed: int

    def digest(self, identity: str) -> str:
        """Key of the finished training; ``identity`` is that of the base weights (`Provider.identity`)."""
        return digest_of({"identity": identity, **asdict(self)})


@dataclass(frozen=True)
class TrainingResult:
    """A finished training. ``adapter`` is the digest of the weights, the name they are stored under."""

    adapter: str
    steps: int
    examples: int
    tokens: int
    losses: tuple[float, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    """A finished training as a step gets it; ``cached`` where it had been made before."""

    result: TrainingResult
    cached: bool


Progress = Callable[[int, int, float], None]
"""Called after each optimizer step with (step, steps in all, loss)."""


@runtime_checkable
class Trainer(Protocol):
    """A provider that can tune its own weights."""

    def train(self, job: TrainingJob, adapters: Adapters, progress: Progress | None = None) -> TrainingResult:
        """Train and store the adapter; blocks until it is done. Raises `TrainingError`."""
        ...


@runtime_checkable
class ServedTrainer(Protocol):
    """A trainer whose `Provider.identity` says more than its weights: where they are served from, say."""

    def weights(self) -> str:
        """Identity of the base weights alone, which trainings are known by."""
        ...
