"""A suite's data: examples with attribute access, and the checks every split must pass."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.errors import DataError
from harness.lm.request import digest_of
from harness.prompt import plain

__all__ = ["Example", "Splits", "load_splits", "sample"]

_NAMES = {"train": ("train",), "validation": ("validation", "dev", "val", "valid"), "test": ("test",)}


class Example(Mapping[str, Any]):
    """One row. Fields are read as items or as attributes: ``example["species"]``, ``example.species``."""

    __slots__ = ("__dict__", "_row")

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = dict(row)

    def __getitem__(self, key: str) -> Any:
        return self._row[key]

    def __getattr__(self, name: str) -> Any:
        if name == "_row":  # not set yet: a copy is made without `__init__`
            raise AttributeError(name)
        try:
            return self._row[name]
        except KeyError:
            raise AttributeError(f"this example has no field {name!r}, only {', '.join(self._row)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def __repr__(self) -> str:
        return f"Example({self._row!r})"

    @cached_property
    def digest(self) -> str:
        """Identity of the row: equal rows are the same example, whichever split they are in."""
        return digest_of(plain(self._row, str))[:16]


_TAKEN = frozenset(dir(Example))
"""Names that an example's attributes have already, so that a field of that name cannot be read as one."""


@dataclass(frozen=True)
class Splits:
    """Training, validation and test examples, disjoint. Validation chooses, test is only reported."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    @cached_property
    def digest(self) -> str:
        """The data's fingerprint: order counts."""
        return digest_of([[example.digest for example in split] for split in (self.train, self.validation, self.test)])


def load_splits(data: Any, suite: str, stratify: str | None = None) -> Splits:
    """Call ``data`` if it is a callable and check what it holds.

    Raises `DataError` naming the suite for a split that is missing or empty, a field whose name examples have taken,
    an example in two splits, or a training example without the field ``stratify``.
    """
    value = data() if callable(data) else data
    if not isinstance(value, Mapping):
        raise DataError(
            f"suite {suite!r}: data is {type(value).__name__}, not a mapping of train, validation and test; "
            "give a DatasetDict, a dict of rows, a callable that returns one, or harness.drawn(strategy, train=..., "
            "validation=..., test=...) for a Hypothesis strategy."
        )
    splits = Splits(*(_rows(value, name, suite) for name in _NAMES))
    _require_disjoint(splits, suite)
    lacking = next((example for example in splits.train if stratify is not None and stratify not in example), None)
    if lacking is not None:
        raise DataError(
            f"suite {suite!r}: a training example has no field {stratify!r}, only {', '.join(lacking)}; name in "
            "stratify= one that all have."
        )
    return splits


def _rows(value: Mapping[str, Any], name: str, suite: str) -> tuple[Example, ...]:
    key = next((alias for alias in _NAMES[name] if alias in value), None)
    if key is None:
        raise DataError(f"suite {suite!r}: the split {name!r} is missing; there are {', '.join(map(str, value))}.")
    try:
        rows: Iterator[Any] = iter(value[key])
    except TypeError as error:
        kind = type(value[key]).__name__
        raise DataError(f"suite {suite!r}: the split {key!r} is {kind}; give a list of rows.") from error
    examples = []
    for row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"suite {suite!r}: a row of {key!r} is {type(row).__name__}, not a mapping of fields.")
        if taken := sorted(_TAKEN.intersection(row)):
            raise DataError(
                f"suite {suite!r}: a row of {key!r} has the field {taken[0]!r}, which example.{taken[0]} would not "
                "read; rename the field."
            )
        examples.append(row if isinstance(row, Example) else Example(row))
    if not examples:
        raise DataError(f"suite {suite!r}: the split {key!r} is empty; every split needs at least one example.")
    return tuple(examples)


def _require_disjoint(splits: Splits, suite: str) -> None:
    home: dict[str, str] = {}
    for name in _NAMES:
        for example in getattr(splits, name):
            other = home.setdefault(example.digest, name)
            if other != name:
                raise DataError(
                    f"suite {suite!r}: the splits {other!r} and {name!r} share the example {dict(example)!r}; "
                    "an example may be in one split only."
                )


def sample(
    examples: Sequence[Example], sizes: tuple[int, int], rng: random.Random, stratify: str | None = None
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Two disjoint sub-samples of at most these sizes; where there are too few, both shrink in proportion.

    With ``stratify`` both samples hold each value of that field in proportion.
    """
    order = list(examples)
    rng.shuffle(order)
    if stratify is not None:
        groups: dict[Any, list[Example]] = defaultdict(list)
        for example in order:
            groups[repr(example[stratify])].append(example)
        order = _dealt(list(groups.values()))
    first, second = sizes
    if first + second > len(order):
        first = max(1, len(order) * first // (first + second))
        second = len(order) - first
    return tuple(order[:first]), tuple(order[first : first + second])


def _dealt(groups: list[list[Example]]) -> list[Example]:
    """All examples, so that every prefix holds each group in proportion to its size."""
    placed = [
        ((place + 0.5) / len(group), number, place)
        for number, group in enumerate(groups)
        for place in range(len(group))
    ]
    return [groups[number][place] for _, number, place in sorted(placed)]
