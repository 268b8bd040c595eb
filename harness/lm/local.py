"""The LM in this process: model strings ``local/NAME_OR_PATH``.

Nothing heavy is imported before the first call that no cache answers: torch and transformers come with the engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from harness.errors import AdapterError, ContextTooLongError, HarnessError, LMError, UnknownModelError
from harness.lm.batches import Batch, Limits, Row, plan
from harness.lm.request import Completion, Request, Usage

if TYPE_CHECKING:
    from harness.lm.generate import Decoder, Output
    from harness.lm.served import ServedModel
    from harness.train.adapters import Adapters
    from harness.train.job import Progress, TrainingJob, TrainingResult
    from harness.train.loader import Loader

__all__ = ["LocalProvider", "folder_of", "source_of"]

_PREFIX = "local/"
_PACKAGED = {"nano": Path(__file__).parent.parent / "models" / "nano"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# What a model is made of: weights, configs, tokenizer. Pickled weights are not among them.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
# The same weights once more, in their makers' formats (Mistral's, OpenAI's).
_NOT_MODEL_FILES = ("consolidated*", "original/*")
_HASHED_WHOLE = 64 * 1024 * 1024
_EDGE = 1024 * 1024

# A call waits this long for others to share its batch; results do not depend on it.
_GATHER_SECONDS = 0.002
# Calls looked at when a batch is put together.
_WINDOW = 256
# A GPU is idle on small batches. On a CPU larger ones are slower: their keys and values fall out of the caches.
_CPU_LIMITS = Limits(rows=64, tokens=8192, cached=32768)
_GPU_LIMITS = Limits(rows=256, tokens=32768, cached=131072)


class LocalProvider:
    """Serves one ``local/NAME_OR_PATH`` model with any number of adapters, and fine-tunes it.

    ``NAME`` is ``nano`` (the model that comes with the package), a folder, or an id of the Hugging Face hub. One
    thread owns the model: it batches the calls that wait, whatever adapters they use, and trains between batches.
    """

    concurrency = 256

    def __init__(self, model: str, adapters: Adapters | None = None, *, loader: Loader | str = "auto") -> None:
        """Find the model; nothing is loaded yet. ``loader`` is one of `harness.train.loader.LOADERS`, or one's own.

        Raises:
            UnknownModelError: ``model`` is no local model string, or names a folder that is not there.
        """
        self.model = model
        self._source = _Source.of(model)
        self._engine = _Engine(self._source, adapters, loader)
        # At the interpreter's exit the thread must not be inside torch.
        self._finalizer = weakref.finalize(self, self._engine.close)
        # Rounded weights give other answers.
        self._variant = " 4bit" if loader == "unsloth-4bit" else ""
        self._identity: str | None = None

    def identity(self) -> str:
        """The model string with a digest of weights, tokenizer and configs.

        Raises:
            UnknownModelError: the folder holds no safetensors model, or the hub has none of this id.
        """
        if self._identity is None:
            self._identity = f"{self.model}@{self._source.digest()}{self._variant}"
        return self._identity

    async def complete(self, request: Request) -> Completion:
        """Answer a request in a batch with others.

        Raises:
            ContextTooLongError: the prompt fills the model's context.
            AdapterError: the request's adapter is missing, damaged or made for another model.
            LMError: the engine failed or was closed.
        """
        future: Future[Completion] = Future()
        self._engine.put(_Call(request, future))
        return await asyncio.wrap_future(future)

    def train(self, job: TrainingJob, adapters: Adapters, progress: Progress | None = None) -> TrainingResult:
        """Fine-tune an adapter on the model in memory and store it; blocks until it is done.

        Calls that arrive meanwhile wait. ``progress`` is called from the engine's thread.

        Raises:
            NothingToTrainError: the job has no examples, or none fits the context.
            TrainingError: memory ran out at the smallest batch.
            AdapterError: the adapter to continue from is missing or damaged, or the new one cannot be written.
        """
        abandoned = threading.Event()
        future: Future[TrainingResult] = Future()

        def work(served: ServedModel, closed: Callable[[], bool]) -> TrainingResult:
            from harness.train.sft import fine_tune

            return fine_tune(served, job, adapters, progress, lambda: abandoned.is_set() or closed())

        self._engine.put(_Work(work, future))
        try:
            return future.result()
        except BaseException:
            # The caller was interrupted: let the training stop at its next step instead of holding the engine.
            abandoned.set()
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread and give back the model's memory; calls under way fail with `LMError`."""
        self._finalizer()


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model's files are: a folder, or a hub id that is looked up when first needed."""

    model: str
    place: Path | None
    hub_id: str | None = None

    @classmethod
    def of(cls, model: str) -> _Source:
        name = model.removeprefix(_PREFIX)
        if name == model or not name:
            raise UnknownModelError(
                f"{model!r} is no local model: write local/nano, local/PATH or local/ORGANIZATION/MODEL."
            )
        if name in _PACKAGED:
            return cls(model, _existing(model, _PACKAGED[name]))
        path = Path(name).expanduser()
        if path.is_dir():
            return cls(model, _existing(model, path.resolve()))
        if _HUB_ID.fullmatch(name) is None or ".." in name:
            raise UnknownModelError(
                f"{model!r}: there is no folder {path}. Write local/nano for the model that comes with the "
                "package, the path of a folder with a safetensors model, or an id of the Hugging Face hub."
            )
        return cls(model, None, name)

    def folder(self) -> Path:
        """The model's files on this machine, downloaded where they come from the hub."""
        if self.place is not None:
            return self.place
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        hub_id = self.hub_id or ""
        wanted, others = list(_MODEL_FILES), list(_NOT_MODEL_FILES)
        try:
            try:
                found = snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=others, local_files_only=True)
                return _existing(self.model, Path(found))
            except (LocalEntryNotFoundError, UnknownModelError):
                found = snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=others)
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            raise UnknownModelError(
                f"{self.model!r}: there is no folder of this name, and the Hugging Face hub gave no model "
                f"{self.hub_id!r} ({type(error).__name__}). Check the name, the network and, for a gated model, "
                "your access; local/nano needs none of them."
            ) from error
        return _existing(self.model, Path(found))

    def digest(self) -> str:
        folder = self.folder()
        if self.hub_id is not None and re.fullmatch(r"[0-9a-f]{40}", folder.name):
            # A snapshot is named after the commit, which stands for its content on every machine.
            return folder.name[:32]
        hasher = hashlib.sha256()
        for path in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
            hasher.update(f"{path.name}\0{_file_digest(path)}\0".encode())
        return hasher.hexdigest()[:32]


def source_of(model: str) -> str:
    """What stands behind a ``local/...`` model string: a folder, or an id of the hub. Raises `UnknownModelError`."""
    source = _Source.of(model)
    return source.hub_id or str(source.place)


def folder_of(model: str) -> Path:
    """The files of a ``local/...`` model, downloaded where they come from the hub. Raises `UnknownModelError`."""
    return _Source.of(model).folder()


def _existing(model: str, folder: Path) -> Path:
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if next(folder.glob("*.safetensors"), None) is None:
        missing.append("safetensors weights")
    else:
        missing += _missing_weights(folder)
    if missing:
        raise UnknownModelError(
            f"{model!r}: the folder {folder} has no {' and no '.join(missing)}. Point to a folder that "
            "transformers' save_pretrained wrote (pickled weights are not loaded)."
        )
    return folder


def _missing_weights(folder: Path) -> list[str]:
    """Weights that should be beside those in the folder: a download that was interrupted leaves some of them out."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return []
    if not index.is_file():
        return [index.name] if any(folder.glob("*-of-*.safetensors")) else []
    try:
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError):
        return [f"sound {index.name}"]
    return [part for part in parts if not (folder / part).is_file()]


def _file_digest(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        # Hashing many GB at every start would take longer than the cached run it guards.
        hasher = hashlib.sha256(f"{size} {path.stat().st_mtime_ns}".encode())
        hasher.update(file.read(_EDGE))
        file.seek(-_EDGE, os.SEEK_END)
        hasher.update(file.read(_EDGE))
        return hasher.hexdigest()


@dataclass(eq=False, slots=True)
class _Call:
    """A completion that is waited for. ``ids`` are kept, since several batches may pass before its turn comes."""

    request: Request
    future: Future[Completion]
    ids: list[int] | None = None
    since: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, eq=False)
class _Work:
    """Anything else that needs the model alone."""

    run: Callable[[ServedModel, Callable[[], bool]], Any]
    """Called with the model and with what tells whether the engine is being closed."""
    future: Future[Any]


class _Engine:
    """The thread that owns the model, and its queue."""

    def __init__(self, source: _Source, adapters: Adapters | None, loader: Loader | str) -> None:
        self._source = source
        self._adapters = adapters
        self._loader = loader
        self._queue: queue.SimpleQueue[_Call | _Work | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._served: ServedModel | None = None
        self._unloadable: HarnessError | None = None
        self._decoder: Decoder | None = None
        self._limits = _CPU_LIMITS
        self._choices: dict[tuple[str, ...], tuple[tuple[int, ...], ...]] = {}

    def put(self, item: _Call | _Work) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="bt-local-engine", daemon=True)
                self._thread.start()
            self._queue.put(item)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(None)
        # The garbage collector may close a provider from any thread, this one included.
        if thread is not threading.current_thread():
            thread.join()
        self._served = self._decoder = None

    def _loop(self) -> None:
        waiting: list[_Call | _Work] = []
        while True:
            open_ = self._gather(waiting)
            if not open_ or self._closed:
                break
            if isinstance(first := waiting[0], _Work):
                waiting.pop(0)
                self._work(first)
            else:
                self._serve(waiting)
        for item in waiting:
            _fail(item.future, _closed())
        while not self._queue.empty():
            if (late := self._queue.get()) is not None:
                _fail(late.future, _closed())

    def _gather(self, waiting: list[_Call | _Work]) -> bool:
        """Take what has been put; False once the engine is closed."""
        if not waiting:
            item = self._queue.get()
            if item is None:
                return False
            waiting.append(item)
            time.sleep(_GATHER_SECONDS)
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return True
            if item is None:
                return False
            waiting.append(item)

    def _work(self, work: _Work) -> None:
        if not work.future.set_running_or_notify_cancel():
            return
        try:
            result = work.run(self._model(), lambda: self._closed)
        except Exception as error:  # noqa: BLE001 - whoever waits for the work gets the error
            _fail(work.future, error)
        else:
            work.future.set_result(result)

    def _serve(self, waiting: list[_Call | _Work]) -> None:
        """Answer one batch: the one with the call that has waited longest, so that none waits for ever."""
        calls: list[_Call] = []
        for item in waiting:
            # Calls put after some work run after it, on what it leaves behind.
            if isinstance(item, _Work) or len(calls) == _WINDOW:
                break
            calls.append(item)
        rest = waiting[len(calls) :]
        try:
            ready, rows = self._prepared(calls)
            if ready:
                ready, rows, share = self._alike(ready, rows)
                batch = next(batch for batch in plan(rows, self._limits, share=share) if 0 in batch.rows)
                self._run(ready, rows, batch)
        except Exception as error:  # noqa: BLE001 - every call must get an answer, whatever went wrong
            for call in calls:
                _fail(call.future, _engine_error(error))
        waiting[:] = [*(call for call in calls if not call.future.done()), *rest]

    def _prepared(self, calls: list[_Call]) -> tuple[list[_Call], list[Row]]:
        """The calls that can run, as rows; the others have been given their error."""
        ready: list[_Call] = []
        rows: list[Row] = []
        for call in calls:
            if call.future.cancelled():
                continue
            try:
                row = self._row(call)
            except HarnessError as error:
                _fail(call.future, error)
            except Exception as error:  # noqa: BLE001 - a broken tokenizer or template fails this call alone
                _fail(call.future, _engine_error(error))
            else:
                ready.append(call)
                rows.append(row)
        return ready, rows

    def _alike(self, calls: list[_Call], rows: list[Row]) -> tuple[list[_Call], list[Row], bool]:
        """Those that may share a batch with the first call, and whether they may share prefixes."""
        share = self._decoder is not None and self._decoder.can_share
        border = self._model().border
        if border is None:
            return calls, rows, share
        # Below the border all along, beyond it from the first token on, or across it (None).
        sides = [len(row.ids) > border or (None if len(row.ids) + row.max_new > border else False) for row in rows]
        alike = [at for at, side in enumerate(sides) if at == 0 or (side is not None and side == sides[0])]
        return [calls[at] for at in alike], [rows[at] for at in alike], share and sides[0] is False

    def _row(self, call: _Call) -> Row:
        request, sampling = call.request, call.request.sampling
        served = self._model()
        ids = self._encoded(call)
        room = sampling.max_tokens
        if served.context is not None:
            room = min(room, served.context - len(ids))
        if room < 1:
            raise ContextTooLongError(
                f"The prompt has {len(ids)} tokens and {self._source.model} reads {served.context} in all, "
                "completion included. Show fewer or shorter demos, or use a model with a longer context."
            )
        if request.lm.adapter is not None:
            if self._adapters is None:
                raise AdapterError(
                    f"{self._source.model} was asked for adapter {request.lm.adapter} but was given no adapters. "
                    "Pass the folder they are in: LocalProvider(model, Adapters(folder))."
                )
            served.load(request.lm.adapter, self._adapters)
        return Row(
            ids=ids,
            adapter=request.lm.adapter,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new=room,
            stop=tuple(stop for stop in sampling.stop if stop),
            seed=request.sampling_seed,
            choices=self._encoded_choices(request.choices),
        )

    def _encoded_choices(self, choices: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        if choices not in self._choices:
            from harness.lm.encode import encode_reply

            tokenizer = self._model().tokenizer
            # As training writes them: with the blank that some templates put before an answer.
            self._choices[choices] = tuple(tuple(encode_reply(tokenizer, text)) for text in choices)
        return self._choices[choices]

    def _encoded(self, call: _Call) -> list[int]:
        if call.ids is None:
            from harness.lm.encode import encode_prompt

            call.ids = encode_prompt(self._model().tokenizer, call.request.messages)
        return call.ids

    def _run(self, calls: list[_Call], rows: list[Row], batch: Batch) -> None:
        """Decode a batch. Where it fails, its halves are tried, down to the one call that cannot be answered."""
        assert self._decoder is not None
        assert self._served is not None
        self._served.evict([row.adapter for row in rows if row.adapter is not None])

        def finished(index: int, output: Output) -> None:
            call = calls[index]
            _answer(
                call.future,
                Completion(
                    output.text,
                    Usage(len(rows[index].ids), output.tokens),
                    output.finish,
                    time.perf_counter() - call.since,
                ),
            )

        def pointless() -> bool:
            return self._closed or all(calls[index].future.done() for index in batch.rows)

        left: list[int] = []
        try:
            self._decoder.run(rows, batch, finished, pointless)
        except Exception as error:  # noqa: BLE001 - out of memory, or a row the model cannot take
            # Its frames hold the batch's keys and values, and whoever gets the error may keep it.
            clear_frames(error.__traceback__)
            left = [index for index in batch.rows if not calls[index].future.done()]
            if len(left) == 1:
                _fail(calls[left.pop()].future, _engine_error(error))
        # After the except block, when nothing refers to the failed batch: what is tried next needs its memory.
        if left:
            middle = len(left) // 2
            self._run(calls, rows, Batch(tuple(left[:middle])))
            self._run(calls, rows, Batch(tuple(left[middle:])))

    def _model(self) -> ServedModel:
        """The model, loaded once; where that failed, no call tries again. Raises what loading raised."""
        if self._served is None and self._unloadable is None:
            try:
                self._served = self._load()
            except Exception as error:  # noqa: BLE001 - out of memory, or whatever else a loader raises
                # Its frames hold what had been loaded by then.
                clear_frames(error.__traceback__)
                self._unloadable = error if isinstance(error, HarnessError) else _load_error(self._source.model, error)
        if self._served is None:
            assert self._unloadable is not None
            # A copy, since one that is raised many times would gather all the tracebacks.
            raise copy(self._unloadable) from self._unloadable.__cause__
        return self._served

    def _load(self) -> ServedModel:
        from harness.train.loader import loader_named

        # Before transformers is imported: Unsloth wants to come first.
        load = loader_named(self._loader) if isinstance(self._loader, str) else self._loader
        loaded = load(self._source.folder())
        from harness.lm.encode import stop_tokens
        from harness.lm.generate import Decoder
        from harness.lm.served import ServedModel

        served = ServedModel(loaded)
        if not served.tokenizer.chat_template:
            raise UnknownModelError(
                f"{self._source.model!r} has no chat template, so it cannot be prompted with chat messages. Use its "
                "chat (instruct) version, or put a chat_template.jinja into its folder."
            )
        self._decoder = Decoder(served, stop_tokens(served.tokenizer, served.base.generation_config))
        self._limits = _GPU_LIMITS if served.device.type == "cuda" else _CPU_LIMITS
        return served


def _closed() -> LMError:
    return LMError("The local engine was closed while calls were under way.")


def _engine_error(error: Exception) -> Exception:
    if isinstance(error, HarnessError):
        return error
    wrapped = LMError(f"The local engine failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _load_error(model: str, error: Exception) -> LMError:
    failed = UnknownModelError(
        f"{model!r} cannot be loaded: {type(error).__name__}: {error} Where it does not fit into memory, end what else "
        "is in there, or use a smaller model or --bt-loader unsloth-4bit."
    )
    failed.__cause__ = error
    return failed


def _answer(future: Future[Completion], completion: Completion) -> None:
    # The caller may have given up in this moment.
    with suppress(InvalidStateError):
        future.set_result(completion)


def _fail(future: Future[Any], error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
