"""Which waiting calls are computed together: pure planning, no tensors."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Batch", "Limits", "Row", "plan"]

# A common prefix is worth a forward pass of its own where it is this long and saves this many tokens in all.
_LEAST_PREFIX = 16
_LEAST_SAVING = 64


@dataclass(frozen=True, slots=True)
class Row:
    """One call as the decoder needs it. ``adapter`` is the adapter's digest; ``max_new`` bounds the completion.

    ``choices`` are the token ids of all completions that may be given; empty where any may.
    """

    ids: Sequence[int]
    adapter: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    max_new: int = 16
    stop: tuple[str, ...] = ()
    seed: int = 0
    choices: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one batch. Tokens count as computed, padding included.

    ``tokens`` bounds a single forward pass, ``cached`` the keys and values kept for all rows, ``rows`` their
    number.
    """

    rows: int = 64
    tokens: int = 8192
    cached: int = 32768


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to decode together, by their index.

    ``groups`` are (prefix length, rows) in the rows' order: the rows of a group begin with the same tokens, which
    are computed once. A batch without groups shares nothing.
    """

    rows: tuple[int, ...]
    groups: tuple[tuple[int, int], ...] = ()


def plan(rows: Sequence[Row], limits: Limits, *, share: bool = True) -> list[Batch]:
    """Cut the rows into batches: rows with a long common prefix share it, the others are sorted by length."""
    order = sorted(range(len(rows)), key=lambda index: (rows[index].adapter or "", _key(rows[index].ids)))
    groups = _groups(rows, order) if share else [(0, order)]
    shared = [(prefix, members) for prefix, members in groups if prefix]
    alone = [index for prefix, members in groups if not prefix for index in members]
    return [*_shared_batches(rows, shared, limits), *_plain_batches(rows, alone, limits)]


def _key(ids: Sequence[int]) -> bytes:
    # Equal prefixes are neighbours in any lexicographic order, and bytes compare many times faster than lists.
    return array("I", ids).tobytes()


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix, which always leaves either side a token of its own."""
    low, high = 0, min(len(left), len(right)) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return max(low, 0)


def _groups(rows: Sequence[Row], order: list[int]) -> list[tuple[int, list[int]]]:
    """Neighbours that share a prefix, chosen to save the most tokens (prefix length times rows less one)."""
    common = [
        _common(rows[left].ids, rows[right].ids) if rows[left].adapter == rows[right].adapter else 0
        for left, right in pairwise(order)
    ]

    def best(start: int, end: int) -> tuple[int, list[tuple[int, list[int]]]]:
        if end - start == 1:
            return 0, [(0, order[start:end])]
        shortest = min(common[start : end - 1])
        whole = shortest * (end - start - 1)
        if shortest < _LEAST_PREFIX or whole < _LEAST_SAVING:
            whole = 0
        cuts = [at + 1 for at in range(start, end - 1) if common[at] == shortest]
        parts = [best(left, right) for left, right in zip([start, *cuts], [*cuts, end], strict=True)]
        if whole and whole >= sum(saved for saved, _ in parts):
            return whole, [(shortest, order[start:end])]
        return sum(saved for saved, _ in parts), [group for _, found in parts for group in found]

    return best(0, len(order))[1] if order else []


def _shared_batches(rows: Sequence[Row], groups: list[tuple[int, list[int]]], limits: Limits) -> list[Batch]:
    # Prefixes of one batch are padded to the longest, so similar lengths go together.
    pieces: list[tuple[int, list[int]]] = []
    for prefix, members in sorted(groups, key=lambda group: (group[0], group[1][0])):
        by_length = sorted(members, key=lambda index: (len(rows[index].ids), index))
        pieces += [(prefix, by_length[at : at + limits.rows]) for at in range(0, len(by_length), limits.rows)]
    batches: list[Batch] = []
    taken: list[int] = []
    taken_groups: list[tuple[int, int]] = []

    def fits(prefix: int, members: Sequence[int], extra_groups: int) -> bool:
        suffix = max(
            len(rows[index].ids) - length
            for length, index in [
                *((length, index) for (length, _), index in _spread(taken_groups, taken)),
                *((prefix, index) for index in members),
            ]
        )
        count = len(taken) + len(members)
        width = max([prefix, *(length for length, _ in taken_groups)])
        new = max(rows[index].max_new for index in [*taken, *members])
        return (
            count <= limits.rows
            and count * suffix <= limits.tokens
            and (len(taken_groups) + extra_groups) * width <= max(limits.tokens, width)
            and count * (width + suffix + min(new, 64)) <= limits.cached
        )

    def flush() -> None:
        if taken:
            batches.append(Batch(tuple(taken), tuple(taken_groups)))
        taken.clear()
        taken_groups.clear()

    for prefix, members in pieces:
        rest = list(members)
        while rest:
            size = len(rest)
            while size > 1 and not fits(prefix, rest[:size], 1):
                size //= 2
            if taken and not (size == len(rest) and fits(prefix, rest[:size], 1)):
                flush()
                continue
            taken.extend(rest[:size])
            taken_groups.append((prefix, size))
            rest = rest[size:]
    flush()
    return batches


def _spread(groups: Sequence[tuple[int, int]], members: Sequence[int]) -> list[tuple[tuple[int, int], int]]:
    """Each row beside its group."""
    return [(group, index) for group, index in zip((g for g in groups for _ in range(g[1])), members, strict=True)]


def _plain_batches(rows: Sequence[Row], members: list[int], limits: Limits) -> list[Batch]:
    by_length = sorted(members, key=lambda index: (len(rows[index].ids), rows[index].adapter or "", index))
    batches: list[Batch] = []
    taken: list[int] = []
    for index in by_length:
        # Sorted by length, so the newcomer is the longest row and sets the width.
        count, width = len(taken) + 1, len(rows[index].ids)
        if taken and (count > limits.rows or count * width > limits.tokens):
            batches.append(Batch(tuple(taken)))
            taken = []
        taken.append(index)
    if taken:
        batches.append(Batch(tuple(taken)))
    return batches
