"""vLLM servers: tuned weights are loaded into the running server and called by name, so that nothing is relaunched.

The server needs ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``
(https://docs.vllm.ai/en/stable/features/lora.html), and reads the adapters' folder itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import AdapterError, InvalidRequestError, LMError, UnknownModelError, UsageError
from harness.lm.endpoint import Endpoint, EndpointProvider, load_litellm
from harness.lm.failures import explain, hide
from harness.lm.local import LocalProvider, source_of
from harness.lm.request import Completion, LMRef, Request
from harness.train.adapters import Adapters
from harness.train.job import Progress, TrainingJob, TrainingResult

__all__ = ["VllmProvider"]

_LOG = logging.getLogger(__name__)
_LOAD_SECONDS = 60.0
# Of the two seconds in which a client closes.
_UNLOAD_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class _Loaded:
    """An adapter on the server, or on its way there; ``users`` are the calls under way."""

    loading: asyncio.Task[bool]
    users: int = 0

    @property
    def ours(self) -> bool:
        """Whether this process has loaded it; what others have loaded is theirs to unload."""
        task = self.loading
        return task.done() and not task.cancelled() and task.exception() is None and task.result()


class VllmProvider(EndpointProvider):
    """One model of a vLLM server with any number of adapters, which go by their digests there.

    Weights are tuned beside the server: a `LocalProvider` trains on ``endpoint.weights``, the model that the server
    runs. The adapters used last stay on the server, ``endpoint.max_loras`` of them and those that calls wait for. A
    server that has forgotten one (it was started anew) is given it again.
    """

    def __init__(
        self, model: str, endpoint: Endpoint | None = None, adapters: Adapters | None = None, *, loader: str = "auto"
    ) -> None:
        """Raises `UnknownModelError` where ``endpoint.weights`` names no model."""
        super().__init__(model, endpoint)
        self._adapters = adapters
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._http: Any = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._tuner: LocalProvider | None = None
        if (weights := self._endpoint.weights) is not None:
            self._tuner = LocalProvider(f"local/{weights}", adapters, loader=loader)

    def identity(self) -> str:
        """Model string, base URL, and the weights: their content where they are a folder."""
        identity = super().identity()
        return f"{identity} weights={self.weights()}" if self._tuner is not None else identity

    def weights(self) -> str:
        """What is trained on, wherever it is served from; empty where nothing says what that is."""
        if self._tuner is None:
            return ""
        source = source_of(self._tuner.model)
        # A model of the hub would be downloaded for its digest, by runs that train nothing as well.
        return self._tuner.identity() if Path(source).is_dir() else source

    async def complete(self, request: Request) -> Completion:
        """Ask the server; an adapter it lacks is loaded first.

        Raises:
            AdapterError: the adapter is missing or damaged, or the server does not take it.
            LMError: as every endpoint.
        """
        adapter = request.lm.adapter
        if adapter is None:
            return await super().complete(request)
        try:
            return await self._complete_with(adapter, request)
        except UnknownModelError:
            # The server was started anew, or another process unloaded the adapter. No completion was paid for, so
            # this is no retry in the client's sense.
            return await self._complete_with(adapter, request)

    def train(self, job: TrainingJob, adapters: Adapters, progress: Progress | None = None) -> TrainingResult:
        """Tune the weights in this process; blocks until it is done.

        Raises:
            UsageError: the endpoint's settings do not say which weights the server runs.
            NothingToTrainError: the job has no examples, or none fits the context.
            TrainingError: memory ran out at the smallest batch.
            AdapterError: the adapter to continue from is missing or damaged, or the new one cannot be written.
        """
        if self._tuner is None:
            raise UsageError(
                f"the weights of {self._model!r} cannot be tuned, since nothing says what the server runs: set "
                f'weights = "<hub id or path>" in [tool.bt-harness.lm."{self._model}"].'
            )
        return self._tuner.train(replace(job, lm=LMRef(self._tuner.model, job.lm.adapter)), adapters, progress)

    def close(self) -> None:
        """Unload what this process loaded, end the connections and give back the memory of training."""
        if self._home is not None and self._home.is_running() and self._http is not None:
            leaving = asyncio.run_coroutine_threadsafe(self._leave(), self._home)
            try:
                leaving.result(_UNLOAD_SECONDS)
            except TimeoutError:
                leaving.cancel()
        super().close()
        if self._tuner is not None:
            self._tuner.close()

    def takes_schema(self) -> bool:
        """vLLM holds any model to a schema, unless the endpoint's settings say otherwise."""
        return self._endpoint.json_schema is not False

    def _model_for(self, request: Request) -> str:
        return self._model if request.lm.adapter is None else f"{self._prefix}/{request.lm.adapter}"

    def _arguments(self, model: str, request: Request) -> dict[str, Any]:
        arguments = super()._arguments(model, request)
        if request.choices:
            arguments["extra_body"] = {"structured_outputs": {"choice": list(request.choices)}}
        return arguments

    async def _complete_with(self, adapter: str, request: Request) -> Completion:
        entry = self._entry(adapter)
        entry.users += 1
        try:
            # Others wait for the same load: it is not cancelled with this call.
            await asyncio.shield(entry.loading)
            return await super().complete(request)
        except UnknownModelError:
            if self._loaded.get(adapter) is entry:
                del self._loaded[adapter]
            raise
        finally:
            entry.users -= 1

    def _entry(self, adapter: str) -> _Loaded:
        """The adapter's place on the server, loading it where it has none; the last used one is last."""
        entry = self._loaded.get(adapter)
        if entry is None or (entry.loading.done() and (entry.loading.cancelled() or entry.loading.exception())):
            entry = self._loaded[adapter] = _Loaded(asyncio.create_task(self._load(adapter)))
            # Whoever waited may be gone by the time it fails.
            entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._loaded.move_to_end(adapter)
        return entry

    async def _load(self, adapter: str) -> bool:
        """Have the server load an adapter, after unloading those that are over; whether it had not before."""
        if self._adapters is None:
            raise AdapterError(f"{self._where} was asked for adapter {adapter} but was given no adapters.")
        await self._make_room()
        folder = (await asyncio.to_thread(self._adapters.path, adapter)).resolve()
        began = time.perf_counter()
        try:
            await self._post("load_lora_adapter", {"lora_name": adapter, "lora_path": str(folder)})
        except (InvalidRequestError, UnknownModelError) as error:
            if "already been loaded" in str(error):
                return False
            raise AdapterError(
                f"{self._where} does not take the adapter {adapter}: {error}. The server needs --enable-lora, "
                "--max-lora-rank of at least the adapter's rank, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its "
                f"environment, and must be able to read {folder}."
            ) from None
        _LOG.info("adapter %s loaded into %s in %.0f ms", adapter, self._where, 1000 * (time.perf_counter() - began))
        return True

    async def _make_room(self) -> None:
        # Looked through anew each time: while one is unloaded, others make room as well.
        while len(self._loaded) > self._endpoint.max_loras:
            idle = (name for name, entry in self._loaded.items() if entry.users == 0 and entry.loading.done())
            adapter = next(idle, None)
            if adapter is None:
                return
            if self._loaded.pop(adapter).ours:
                await self._unload(adapter)

    async def _unload(self, adapter: str) -> None:
        # A server that cannot be reached, or has forgotten it, keeps nothing either.
        with contextlib.suppress(LMError):
            await self._post("unload_lora_adapter", {"lora_name": adapter})
            _LOG.info("adapter %s unloaded from %s", adapter, self._where)

    async def _leave(self) -> None:
        for adapter, entry in self._loaded.items():
            if entry.ours:
                await self._unload(adapter)
        self._loaded.clear()
        client, self._http = self._http, None
        await client.aclose()

    async def _post(self, what: str, body: dict[str, str]) -> None:
        """Call one of the server's adapter routes; raises the `LMError` that fits."""
        import httpx

        if self._http is None:
            self._home = asyncio.get_running_loop()
            self._http = httpx.AsyncClient(timeout=_LOAD_SECONDS)
        settings = self._endpoint
        key = os.environ.get(settings.api_key_env or "HOSTED_VLLM_API_KEY", "").strip()
        hide(key)
        headers = ({"Authorization": f"Bearer {key}"} if key else {}) | self._headers
        try:
            response = await self._http.post(f"{self._root()}/{what}", json=body, headers=headers)
            response.raise_for_status()
            return
        except httpx.HTTPError as error:
            # What explains it asks litellm's classes, whose import takes seconds.
            await asyncio.to_thread(load_litellm)
            failure = explain(error, where=self._where, timeout=_LOAD_SECONDS, secrets=list(headers.values()))
        raise failure

    def _root(self) -> str:
        if not self._base_url:
            raise UsageError(
                f"nothing says where the server of {self._model!r} is: set base_url in "
                f'[tool.bt-harness.lm."{self._model}"], or HOSTED_VLLM_API_BASE.'
            )
        root = self._base_url.rstrip("/")
        return root if root.endswith("/v1") else f"{root}/v1"
