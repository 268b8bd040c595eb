"""Data from Hypothesis strategies: every split is drawn from a seed, and no example comes twice.

Hypothesis' own generation is made to find bugs: it repeats and mutates examples, prefers edge cases, and takes
constants from the modules that happen to be imported. Data wants none of that, so draws go through a provider of
ours (an alternative backend, in Hypothesis' words), which is uniform and a function of the seed alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import HypothesisException
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, PrimitiveProvider
from hypothesis.strategies import SearchStrategy

from harness.data import Example
from harness.errors import DataError
from harness.lm.request import digest_of
from harness.prompt import plain

__all__ = ["Drawn", "drawn"]

_BACKEND = "bt-harness"
_ROUNDS = 20
"""Times a split asks the strategy for what it still lacks before it gives up."""


def drawn(
    strategy: SearchStrategy[Mapping[str, Any]],
    *,
    train: int,
    validation: int,
    test: int,
    seed: int = 0,
    unique: str | None = None,
) -> Drawn:
    """Let a Hypothesis strategy be a suite's data: ``@suite(data=drawn(problems(), train=200, ...))``.

    The strategy gives rows, mappings of JSON values. The sizes are numbers of examples. The same strategy, sizes
    and seed give the same splits in every process and on every machine; each split has a stream of its own. No row
    comes twice, and with ``unique`` no value of that field. Raises `DataError` for a size under 1.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for name, size in sizes.items():
        if size < 1:
            raise DataError(f"the split {name!r} has the size {size}; every split needs at least one example.")
    return Drawn(strategy, sizes, seed, unique)


@dataclass(frozen=True)
class Drawn:
    """Splits that are yet to be drawn; call it to draw them."""

    strategy: SearchStrategy[Mapping[str, Any]]
    sizes: Mapping[str, int]
    seed: int
    unique: str | None = None

    def __call__(self) -> dict[str, list[Example]]:
        """Draw all splits. Raises `DataError` where the strategy has too few different examples."""
        taken: set[str] = set()
        return {name: self._split(name, size, taken) for name, size in self.sizes.items()}

    def _split(self, name: str, size: int, taken: set[str]) -> list[Example]:
        found: list[Example] = []
        for number in range(_ROUNDS):
            stream = random.Random(digest_of([self.seed, name, number]))
            for row in _values(self.strategy, size - len(found), stream):
                example = _example(row)
                identity = self._identity(example)
                if identity not in taken and len(found) < size:
                    taken.add(identity)
                    found.append(example)
            if len(found) == size:
                return found
        raise DataError(
            f"the strategy gave {len(taken)} different examples for the splits up to {name!r}, which wants "
            f"{size - len(found)} more; ask for fewer, or let the strategy vary more."
        )

    def _identity(self, example: Example) -> str:
        """What no two examples may have in common."""
        if self.unique is None:
            return example.digest
        if self.unique not in example:
            raise DataError(f"unique={self.unique!r} is no field of the strategy's rows ({', '.join(example)}).")
        return digest_of(plain(example[self.unique], str))


def _example(row: Any) -> Example:
    if not isinstance(row, Mapping):
        raise DataError(f"the strategy gave {type(row).__name__}, not a mapping of fields; let it build a dict.")
    return Example(row)


def _values(strategy: SearchStrategy[Any], count: int, stream: random.Random) -> Iterator[Any]:
    """About ``count`` values of the strategy, a function of the stream alone."""
    found: list[Any] = []
    draws = _Draws(stream)

    @settings(
        backend=_BACKEND,
        max_examples=count + 1,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate,),
        print_blob=False,
        suppress_health_check=tuple(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(strategy)
    def take(value: Any) -> None:
        if draws.made:  # Hypothesis begins with the simplest value, which it asks no backend for
            found.append(value)
        draws.made = 0

    token = _current.set(draws)
    try:
        take()
    except HypothesisException as error:
        raise DataError(f"Hypothesis cannot draw from the strategy: {error}") from error
    finally:
        _current.reset(token)
    return iter(found)


@dataclass
class _Draws:
    """The stream that choices come from, and how many of the current value's were drawn."""

    stream: random.Random
    made: int = 0


_current: ContextVar[_Draws] = ContextVar("bt_draws")


class _Uniform(PrimitiveProvider):
    """Draws every choice uniformly from what the strategy allows; where that has no bounds, by magnitude."""

    lifetime = "test_case"

    @property
    def _random(self) -> random.Random:
        draws = _current.get()
        draws.made += 1
        return draws.stream

    def draw_boolean(self, p: float = 0.5) -> bool:
        return self._random.random() < p

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        if weights:
            left = self._random.random()
            for value, share in weights.items():
                left -= share
                if left < 0:
                    return value
        if min_value is not None and max_value is not None:
            return self._random.randint(min_value, max_value)
        size = self._random.getrandbits(self._random.randint(1, 64))
        if min_value is not None:
            return min_value + size
        if max_value is not None:
            return max_value - size
        return shrink_towards + self._random.choice((-1, 1)) * size

    def draw_float(
        self,
        *,
        min_value: float = -math.inf,
        max_value: float = math.inf,
        allow_nan: bool = True,  # noqa: ARG002 -- data has no use for NaN
        smallest_nonzero_magnitude: float,
    ) -> float:
        low, high = max(min_value, -1e6), min(max_value, 1e6)
        if low > high:  # both bounds lie on one side of what is drawn otherwise
            low, high = (
                (min_value, max_value)
                if math.isfinite(min_value + max_value)
                else ((min_value, min_value) if math.isfinite(min_value) else (max_value, max_value))
            )
        value = self._random.uniform(low, high)
        return value if abs(value) >= smallest_nonzero_magnitude else 0.0 if low <= 0 <= high else high

    def draw_string(self, intervals: Any, *, min_size: int = 0, max_size: int = 10**10) -> str:
        letters = [code for code in range(32, 127) if code in intervals] or range(len(intervals))
        plain = isinstance(letters, list)
        picked = (self._random.choice(letters) for _ in range(self._size(min_size, max_size)))
        return "".join(chr(code) if plain else intervals.char_in_shrink_order(code) for code in picked)

    def draw_bytes(self, min_size: int = 0, max_size: int = 10**10) -> bytes:
        return self._random.randbytes(self._size(min_size, max_size))

    def _size(self, least: int, most: int) -> int:
        return self._random.randint(least, min(most, least + 12))


AVAILABLE_PROVIDERS.setdefault(_BACKEND, f"{__name__}.{_Uniform.__name__}")
