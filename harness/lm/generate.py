"""Batched decoding: shared prefixes, key-value cache, one synchronization with the device per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from harness.lm.batches import Batch, Row
from harness.lm.served import Forward, ServedModel

__all__ = ["Decoder", "Output"]


@dataclass(frozen=True, slots=True)
class Output:
    """A finished row: its text without special tokens, the tokens generated and why it ended."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]


@dataclass(slots=True)
class _Progress:
    """What a row has generated so far."""

    index: int
    row: Row
    ids: list[int] = field(default_factory=list)
    done: bool = False


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that leaves room to grow, so that a token is written in place instead of copying the cache.

    ``DynamicLayer`` concatenates, which at every token copies the keys and values of all rows.
    """

    _room = 64
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            self._buffers = (
                self._grown(self.keys, key_states, end),
                self._grown(self.values, value_states, end),
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., length:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def _grown(self, old: torch.Tensor, new: torch.Tensor, end: int) -> torch.Tensor:
        grown = new.new_empty((*new.shape[:-2], end + self._room, new.shape[-1]))
        if old.numel():
            grown[..., : old.shape[-2], :] = old
        return grown

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.get_seq_length():
            self._buffers = (
                self._selected(self.keys, indices),
                self._selected(self.values, indices),
            )
            length = self.keys.shape[-2]
            self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    def _selected(self, old: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        length = old.shape[-2]
        chosen = old.new_empty((len(indices), old.shape[1], length + self._room, old.shape[-1]))
        runs = [(source, len(list(run))) for source, run in groupby(indices.tolist())]
        if 2 * len(runs) > len(indices):
            chosen[..., :length, :] = old[indices]
            return chosen
        # Rows that share a prefix lie together: written straight from the one they share, without a copy between.
        start = 0
        for source, count in runs:
            chosen[start : start + count, :, :length] = old[source]
            start += count
        return chosen


class Decoder:
    """Decodes batches on a served model. ``stop_ids`` end a completion.

    A row's tokens depend on the row alone: greedy ones on the logits, sampled ones also on uniform numbers drawn
    from the row's own seed, one per token. (Batching changes logits by rounding, as on every engine.)
    """

    def __init__(self, served: ServedModel, stop_ids: frozenset[int]) -> None:
        self._served = served
        self._stop_ids = stop_ids
        pad = served.tokenizer.pad_token_id
        self._pad = int(pad) if pad is not None else min(stop_ids)
        self.can_share = all(type(layer) is DynamicLayer for layer in self._new_cache(plain=True).layers)
        """Whether prefixes may be shared: exact where every layer attends to everything before it."""

    @torch.inference_mode()
    def run(
        self,
        rows: Sequence[Row],
        batch: Batch,
        finished: Callable[[int, Output], None],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Decode one batch of `rows`; ``finished`` is called with each row's index as soon as it ends.

        ``cancelled`` is asked once per token; rows that have not ended by then are left out.
        """
        alive = [_Progress(index, rows[index]) for index in batch.rows]
        with self._served.using([row.row.adapter for row in alive]) as forward:
            if batch.groups:
                cache, mask, logits = self._prefill_shared(alive, batch.groups, forward)
            else:
                cache, mask, logits = self._prefill(alive, forward)
            self._decode(alive, cache, mask, logits, forward, finished, cancelled)

    def _decode(
        self,
        alive: list[_Progress],
        cache: Any,
        mask: torch.Tensor,
        logits: torch.Tensor,
        forward: Forward,
        finished: Callable[[int, Output], None],
        cancelled: Callable[[], bool],
    ) -> None:
        positions = mask.sum(dim=1)
        sampler = _Sampler([progress.row for progress in alive], logits.device)
        adapters = [progress.row.adapter for progress in alive]
        # A row that has ended may still be carried along: it must not run past the last position that is wanted.
        last = max(len(progress.row.ids) + progress.row.max_new for progress in alive) - 1
        step = 0
        while True:
            _forbid(logits, alive, self._stop_ids)
            chosen = sampler.pick(logits, step)
            step += 1
            for progress, token in zip(alive, chosen.tolist(), strict=True):
                if not progress.done:
                    self._take(progress, token, finished)
            left = [at for at, progress in enumerate(alive) if not progress.done]
            if not left or cancelled():
                return
            # Dropping rows copies the cache of the rest, so it waits until a quarter of the work is for nothing.
            if 4 * len(left) <= 3 * len(alive):
                keep = torch.tensor(left, device=mask.device)
                alive = [alive[at] for at in left]
                adapters = [adapters[at] for at in left]
                cache.batch_select_indices(keep)
                mask, positions, chosen = mask[keep], positions[keep], chosen[keep]
                sampler = sampler.select(keep)
            mask = torch.cat([mask, mask.new_ones((len(alive), 1))], dim=1)
            at = positions.clamp(max=last)
            logits = forward(
                adapters,
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=at[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            positions = positions + 1

    def _take(self, progress: _Progress, token: int, finished: Callable[[int, Output], None]) -> None:
        """Add a token to a row, and end the row where it should end."""
        row = progress.row
        progress.ids.append(token)
        finish: Literal["stop", "length"] | None = None
        if token in self._stop_ids:
            finish = "stop"
        elif len(progress.ids) >= row.max_new:
            finish = "length"
        text: str | None = None
        if row.stop and (finish is not None or self._stop_in_tail(progress)):
            text = self._text(progress.ids)
            cut = min((at for stop in row.stop if (at := text.find(stop)) >= 0), default=None)
            if cut is not None:
                text, finish = text[:cut], "stop"
        if finish is not None:
            progress.done = True
            finished(
                progress.index,
                Output(self._text(progress.ids) if text is None else text, len(progress.ids), finish),
            )

    def _stop_in_tail(self, progress: _Progress) -> bool:
        # A character has at most four bytes and a token at least one, so a stop string that has just been
        # completed lies in this many tokens; decoding all of them again at every token would be quadratic.
        tail = self._text(progress.ids[-(4 * max(map(len, progress.row.stop)) + 8) :])
        return any(stop in tail for stop in progress.row.stop)

    def _text(self, ids: list[int]) -> str:
        # Not every tokenizer calls the token that ends a turn a special one.
        if ids and ids[-1] in self._stop_ids:
            ids = ids[:-1]
        return str(self._served.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _prefill(self, alive: list[_Progress], forward: Forward) -> tuple[Any, torch.Tensor, torch.Tensor]:
        cache = self._new_cache()
        ids, mask = self._padded([progress.row.ids for progress in alive])
        logits = forward(
            [progress.row.adapter for progress in alive],
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return cache, mask, logits

    def _prefill_shared(
        self, alive: list[_Progress], groups: Sequence[tuple[int, int]], forward: Forward
    ) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """Compute each group's prefix once, hand its keys and values to the group's rows, then compute the rest."""
        cache = self._new_cache()
        of_row = [group for group, (_, count) in enumerate(groups) for _ in range(count)]
        first = [of_row.index(group) for group in range(len(groups))]
        prefixes = [alive[at].row.ids[: groups[group][0]] for group, at in enumerate(first)]
        ids, prefix_mask = self._padded(prefixes)
        forward(
            [alive[at].row.adapter for at in first],
            input_ids=ids,
            attention_mask=prefix_mask,
            position_ids=(prefix_mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows = torch.tensor(of_row, device=ids.device)
        cache.batch_select_indices(rows)
        ids, suffix_mask = self._padded(
            [progress.row.ids[groups[group][0] :] for progress, group in zip(alive, of_row, strict=True)]
        )
        mask = torch.cat([prefix_mask[rows], suffix_mask], dim=1)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, prefix_mask.shape[1] :]
        logits = forward(
            [progress.row.adapter for progress in alive],
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return cache, mask, logits

    def _padded(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids padded on the left, and 1 where they are no padding."""
        width = max(map(len, sequences))
        ids = np.full((len(sequences), width), self._pad, dtype=np.int64)
        mask = np.zeros((len(sequences), width), dtype=np.int64)
        for at, sequence in enumerate(sequences):
            ids[at, width - len(sequence) :] = sequence
            mask[at, width - len(sequence) :] = 1
        device = self._served.device
        return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)

    def _new_cache(self, *, plain: bool = False) -> Any:
        cache = DynamicCache(config=self._served.base.config)
        if not plain:
            cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        return cache


def _forbid(logits: torch.Tensor, alive: Sequence[_Progress], stop_ids: frozenset[int]) -> None:
    """Where a row's completions are listed, leave it only the tokens that continue one of them, or end a whole one.

    (Guided choice, as of vLLM and Outlines: Willard and Louf 2023, arXiv 2307.09702.)
    """
    for at, progress in enumerate(alive):
        if not progress.row.choices or progress.done:
            continue
        length = len(progress.ids)
        allowed: set[int] = set()
        for choice in progress.row.choices:
            if list(choice[:length]) == progress.ids:
                allowed |= {choice[length]} if len(choice) > length else stop_ids
        forbidden = torch.ones_like(logits[at], dtype=torch.bool)
        forbidden[list(allowed)] = False
        logits[at].masked_fill_(forbidden, -torch.inf)


class _Sampler:
    """Draws every row's next token: the inverse of its cumulative distribution at a uniform number of its own."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        self._greedy = torch.tensor([row.temperature <= 0 for row in rows], device=device)
        self._temperature = torch.tensor(
            [row.temperature if row.temperature > 0 else 1.0 for row in rows],
            device=device,
            dtype=torch.float64,
        )
        self._top_p = torch.tensor([row.top_p for row in rows], device=device, dtype=torch.float64)
        # numpy's generators give the same numbers beside every device; each token has one, needed or not.
        width = max((row.max_new for row in rows if row.temperature > 0), default=0)
        uniforms = np.zeros((len(rows), width))
        for at, row in enumerate(rows):
            if row.temperature > 0:
                uniforms[at, : row.max_new] = np.random.Generator(np.random.Philox(row.seed)).random(row.max_new)
        self._uniforms = torch.from_numpy(uniforms).to(device)
        self._examine()

    def _examine(self) -> None:
        self._sampled = torch.nonzero(~self._greedy).flatten()
        self._any = bool(len(self._sampled))
        self._nucleus = torch.nonzero(self._top_p[self._sampled] < 1).flatten()
        self._any_nucleus = bool(len(self._nucleus))

    def select(self, keep: torch.Tensor) -> _Sampler:
        """The sampler of the rows that are left."""
        chosen = object.__new__(_Sampler)
        chosen._greedy, chosen._temperature = self._greedy[keep], self._temperature[keep]
        chosen._top_p, chosen._uniforms = self._top_p[keep], self._uniforms[keep]
        chosen._examine()
        return chosen

    def pick(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        best = logits.argmax(dim=-1)
        if not self._any:
            return best
        rows = self._sampled
        scaled = logits[rows].double() / self._temperature[rows, None]
        weights = torch.softmax(scaled, dim=-1)
        if self._any_nucleus:
            weights[self._nucleus] = _nucleus(weights[self._nucleus], self._top_p[rows][self._nucleus])
        cumulative = weights.cumsum(dim=-1)
        total = cumulative[:, -1:]
        step = min(step, self._uniforms.shape[1] - 1)
        # Just below the total at most: rounding up to it would pick past the last token that has any weight.
        target = torch.minimum(self._uniforms[rows, step, None] * total, total * (1 - 1e-12))
        drawn = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
        best[rows] = drawn.clamp(max=logits.shape[-1] - 1)
        return best


def _nucleus(weights: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Zero outside the smallest set of tokens whose weights sum to ``top_p``.

    Holtzman et al. 2020, arXiv 1904.09751.
    """
    ordered = weights.sort(dim=-1, descending=True).values
    before = ordered.cumsum(dim=-1) - ordered
    size = (before < top_p[:, None]).sum(dim=-1, keepdim=True).clamp(min=1)
    least = ordered.gather(-1, size - 1)
    return torch.where(weights >= least, weights, 0.0)
