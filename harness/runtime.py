"""What a process shares: the store, the adapters beside it, and the client that reaches every LM."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import UsageError
from harness.lm.budget import Budget, Ledger, Limits, MemoryLedger
from harness.lm.client import Client
from harness.lm.finetune import RemoteTrainer
from harness.lm.prices import prices
from harness.lm.providers import make_provider_factory
from harness.lm.request import Provider
from harness.lm.table import Endpoints
from harness.observe import Observer
from harness.store import Store
from harness.train.adapters import Adapters
from harness.train.job import ServedTrainer, Trained, Trainer, TrainingJob
from harness.train.loader import check_loader

__all__ = ["Runtime"]


@dataclass(frozen=True)
class Runtime:
    """Open it once, close it at the end. ``store`` is None where nothing is kept beyond the process.

    The adapters then lie in a temporary folder: closing removes it, by ``discard``, and so does the process's end.
    """

    store: Store | None
    adapters: Adapters
    client: Client
    budget: Budget | None = None
    discard: Callable[[], object] | None = None

    @classmethod
    def open(
        cls,
        folder: Path | None,
        *,
        endpoints: Endpoints | None = None,
        limits: Limits | None = None,
        ledger: Ledger | None = None,
        loader: str | None = None,
    ) -> Self:
        """``folder`` holds the store's file and the adapters. Raises `StoreError` where it cannot be used.

        ``endpoints`` say how LMs are reached, ``limits`` what may be spent on them, and ``ledger`` is where that is
        written down: in this process alone, unless one is given. ``loader`` is how local models are loaded, the
        environment's ``BT_LOADER`` or ``auto`` by default; raises `UsageError` where it cannot be had.
        """
        discard = None
        if folder is None:
            store, adapters = None, Adapters(Path(tempfile.mkdtemp(prefix="bt-harness-")))
            discard = weakref.finalize(adapters, _remove, adapters.folder, os.getpid())
        else:
            store, adapters = Store.open(folder), Adapters(folder / "adapters")
        budget = Budget(limits, ledger or MemoryLedger(), prices(endpoints or {})) if limits else None
        loader = check_loader(loader or os.environ.get("BT_LOADER") or "auto")
        factory = make_provider_factory(endpoints, adapters=adapters, loader=loader)
        if budget is None:
            return cls(store, adapters, Client(store, factory), discard=discard)
        return cls(store, adapters, Client(store, factory, gate=budget.gate, on_call=budget.record), budget, discard)

    def train(self, job: TrainingJob, task: str, observer: Observer) -> Trained:
        """The finished training of this job, from the store or made now.

        Another process that trains the same is waited for. An adapter that is gone is trained anew; one that is
        damaged raises `AdapterError`.
        """
        found_provider = self.client.provider(job.lm.model)
        if isinstance(found_provider, RemoteTrainer):
            return self._train_remotely(found_provider, job, task, observer)
        provider = _trainer(found_provider, job.lm.model)
        served = provider.weights() if isinstance(provider, ServedTrainer) else ""
        key = job.digest(served or self.client.identity(job.lm.model))
        if self.store is None:
            return Trained(provider.train(job, self.adapters, None), cached=False)
        with self.store.lock(f"training-{key}"):
            found = self.store.get_training(key)
            if found is not None and self.adapters.has(found.adapter):
                self.adapters.path(found.adapter)
                return Trained(found, cached=True)
            observer.started(task, None, "steps")
            try:
                result = provider.train(job, self.adapters, _Steps(observer, task))
            finally:
                observer.finished(task)
            self.store.put_training(key, result)
            return Trained(result, cached=False)

    def _train_remotely(self, provider: RemoteTrainer, job: TrainingJob, task: str, observer: Observer) -> Trained:
        """As `train`, where the weights stay with the provider and an interrupted job is taken up again."""
        if self.store is None:
            raise UsageError("a provider's fine-tuning job is paid for, so its id must be kept; name a store.")
        key = job.digest(self.client.identity(job.lm.model))
        with self.store.lock(f"training-{key}"):
            found = self.store.get_training(key)
            if found is not None:
                return Trained(found, cached=True)
            observer.started(task, None, "steps")
            try:
                result = provider.tune(job, _StoredTicket(self.store, key))
            finally:
                observer.finished(task)
            self.store.put_training(key, result)
            return Trained(result, cached=False)

    def close(self) -> None:
        self.client.close()
        if self.store is not None:
            self.store.close()
        if self.discard is not None:
            self.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child ends earlier
        shutil.rmtree(folder, ignore_errors=True)


class _StoredTicket:
    """A note of a provider's job under the key of its training."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, f"ticket-{key}"

    def read(self) -> Mapping[str, str]:
        return dict(self._store.get_evaluation(self._key) or {})

    def write(self, values: Mapping[str, str]) -> None:
        self._store.put_evaluation(self._key, dict(values))


class _Steps:
    """Tells an observer of each optimizer step."""

    def __init__(self, observer: Observer, task: str) -> None:
        self._observer, self._task = observer, task

    def __call__(self, step: int, total: int, _loss: float) -> None:
        if step == 1:
            self._observer.started(self._task, total, "steps")
        self._observer.advanced(self._task, 1)


def _trainer(provider: Provider, model: str) -> Trainer:
    if isinstance(provider, Trainer):
        return provider
    raise UsageError(
        f"the weights of {model!r} cannot be tuned: only local/NAME_OR_PATH, hosted_vllm/... and openai/... models "
        "can. Leave out strategies with 'w' (--bt-strategies 'p, p -> p') or choose a local model."
    )
