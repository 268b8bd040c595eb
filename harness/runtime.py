"""What a process shares: the store, the adapters beside it, and the client that reaches every LM."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import UsageError
from harness.lm.client import Client
from harness.lm.providers import make_provider_factory
from harness.lm.request import Provider
from harness.observe import Observer
from harness.store import Store
from harness.train.adapters import Adapters
from harness.train.job import Trained, Trainer, TrainingJob

__all__ = ["Runtime"]


@dataclass(frozen=True)
class Runtime:
    """Open it once, close it at the end. ``store`` is None where nothing is kept beyond the process."""

    store: Store | None
    adapters: Adapters
    client: Client

    @classmethod
    def open(cls, folder: Path | None) -> Self:
        """``folder`` holds the store's file and the adapters. Raises `StoreError` where it cannot be used."""
        if folder is None:
            store, adapters = None, Adapters(Path(tempfile.mkdtemp(prefix="bt-harness-")))
        else:
            store, adapters = Store.open(folder), Adapters(folder / "adapters")
        return cls(store, adapters, Client(store, make_provider_factory(adapters=adapters)))

    def train(self, job: TrainingJob, task: str, observer: Observer) -> Trained:
        """The finished training of this job, from the store or made now.

        Another process that trains the same is waited for. An adapter that is gone is trained anew; one that is
        damaged raises `AdapterError`.
        """
        provider = _trainer(self.client.provider(job.lm.model), job.lm.model)
        key = job.digest(self.client.identity(job.lm.model))
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

    def close(self) -> None:
        self.client.close()
        if self.store is not None:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


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
        f"the weights of {model!r} cannot be tuned: only local/NAME_OR_PATH models can. Leave out strategies with "
        "'w' (--bt-strategies 'p, p -> p') or choose a local model."
    )
