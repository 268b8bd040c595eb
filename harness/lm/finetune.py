"""Weights that an OpenAI-style provider tunes: file upload and fine-tuning jobs, through litellm.

Every step is noted before the next one, so that an interrupted run goes on with the job it has paid for.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

from harness.errors import (
    AuthenticationError,
    InvalidRequestError,
    LMError,
    NothingToTrainError,
    TrainingError,
    UnknownModelError,
)
from harness.lm.endpoint import EndpointProvider, load_litellm
from harness.lm.failures import explain
from harness.lm.request import Request
from harness.lm.retry import RetryPolicy
from harness.train.adapters import is_digest
from harness.train.job import ChatExample, TrainingJob, TrainingResult

__all__ = ["FineTunedProvider", "RemoteTrainer", "Ticket", "chat_lines"]

_ENDED: Final = ("succeeded", "failed", "cancelled")


class Ticket(Protocol):
    """A durable note of where a provider's job is."""

    def read(self) -> Mapping[str, str]:
        """What was written last; empty where nothing was."""
        ...

    def write(self, values: Mapping[str, str]) -> None:
        """Replace the note."""
        ...


@runtime_checkable
class RemoteTrainer(Protocol):
    """A provider that tunes weights and keeps them: an `LMRef`'s adapter is then the name it gave to them."""

    def tune(self, job: TrainingJob, ticket: Ticket) -> TrainingResult:
        """Tune and wait, or take up the job that ``ticket`` tells of. Raises `TrainingError` and `LMError`."""
        ...


class FineTunedProvider(EndpointProvider):
    """An endpoint that can tune its own LMs. ``poll_seconds`` lie between two looks at a job."""

    poll_seconds: float = 10.0
    retry = RetryPolicy()

    def _model_for(self, request: Request) -> str:
        adapter = request.lm.adapter
        if adapter is None or is_digest(adapter):  # weights that were trained here cannot be run there
            return super()._model_for(request)
        return f"{self._prefix}/{adapter}"

    def tune(self, job: TrainingJob, ticket: Ticket) -> TrainingResult:
        """Have the provider tune the LM, or the weights tuned before, and wait until it has.

        Of the settings it gets ``epochs`` (whole ones), ``batch_size`` and the seed; it chooses the rest itself.

        Raises:
            NothingToTrainError: the job has no examples.
            TrainingError: the provider refuses the data, or its job failed or was cancelled.
            AuthenticationError: it refuses the key.
        """
        if not job.examples:
            raise NothingToTrainError("there is no example to train on; loosen what passes, or use a better teacher.")
        try:
            name = ticket.read().get("job") or self._begin(job, ticket)
            ended = self._wait(name)
        except AuthenticationError:
            raise
        except (InvalidRequestError, UnknownModelError) as error:
            ticket.write({})
            failure = TrainingError(
                f"{self._where} does not tune it: {error}. Check that the provider offers fine-tuning for this LM; "
                "the next run begins anew."
            )
        except LMError as error:
            failure = TrainingError(
                f"{self._where} cannot be asked about its job: {error}. Run again to go on with it."
            )
        else:
            return self._result(job, ended, ticket)
        raise failure

    def _begin(self, job: TrainingJob, ticket: Ticket) -> str:
        """Upload and start; the id of the job."""
        file = ticket.read().get("file")
        fresh = file is None
        if file is None:
            data = chat_lines(job.examples)
            file = str(self._retried(lambda: self._ask("create_file", file=_named(data), purpose="fine-tune")).id)
            ticket.write({"file": file})
        started = str(self._retried(lambda: self._started(job, file), file, heard=not fresh))
        ticket.write({"file": file, "job": started})
        return started

    def _started(self, job: TrainingJob, file: str) -> str:
        settings = job.settings
        base = job.lm.adapter or self._model.partition("/")[2]
        answer = self._ask(
            "create_fine_tuning_job",
            model=base,
            training_file=file,
            hyperparameters={"n_epochs": max(1, round(settings.epochs)), "batch_size": settings.batch_size},
            suffix="bt-harness",
            seed=job.seed,
        )
        return str(answer.id)

    def _retried(self, ask: Callable[[], Any], known: str | None = None, *, heard: bool = False) -> Any:
        """The answer, after other tries where the failure may pass.

        A request to start a job may have been heard although no answer came: ``known`` is the file whose job is
        looked for before each further try, so that none is started twice; with ``heard`` before the first one, too.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                if known is not None and heard and (found := self._job_of(known)) is not None:
                    return found
                heard = True
                return ask()
            except LMError as error:
                wait = self.retry.wait(error, attempt, "")
                if wait is None:
                    raise
            time.sleep(wait)

    def _job_of(self, file: str) -> str | None:
        """The job that was started on an uploaded file."""
        jobs = self._ask("list_fine_tuning_jobs", limit=100)
        return next((str(job.id) for job in jobs if job.training_file == file), None)

    def _wait(self, name: str) -> Any:
        while True:
            job = self._retried(lambda: self._ask("retrieve_fine_tuning_job", fine_tuning_job_id=name))
            if job.status in _ENDED:
                return job
            time.sleep(self.poll_seconds)

    def _result(self, job: TrainingJob, ended: Any, ticket: Ticket) -> TrainingResult:
        if ended.status != "succeeded" or not ended.fine_tuned_model:
            ticket.write({})
            said = getattr(getattr(ended, "error", None), "message", None) or "it gives no reason"
            raise TrainingError(
                f"the fine-tuning job {ended.id} of {self._where} {ended.status}: {said}. Mend the cause; the next "
                "run starts a new job."
            )
        seconds = max(0.0, float((ended.finished_at or 0) - (ended.created_at or 0))) if ended.finished_at else 0.0
        tokens = int(ended.trained_tokens or 0)
        return TrainingResult(str(ended.fine_tuned_model), 0, len(job.examples), tokens, (), seconds)

    def _ask(self, function: str, **arguments: Any) -> Any:
        answer = self._asked(function, arguments)
        if isinstance(answer, LMError):
            # Raised here, where neither a local variable nor an exception's context holds the key.
            raise answer
        return answer

    def _asked(self, function: str, arguments: Mapping[str, Any]) -> Any:
        litellm = load_litellm()
        import httpx
        import openai

        settings = self._endpoint
        headers = dict(self._headers)
        try:
            key = self._job_key()
            # Litellm sends no headers of ours with jobs, but takes a client that does.
            with openai.OpenAI(
                api_key=key, base_url=self._base_url, timeout=settings.timeout, max_retries=0, default_headers=headers
            ) as client:
                answer = getattr(litellm, function)(
                    **arguments,
                    **({} if function == "create_file" else {"client": client}),
                    custom_llm_provider=self._prefix,
                    api_base=self._base_url,
                    api_key=key,
                    timeout=settings.timeout,
                    max_retries=0,
                    extra_headers=headers or None,
                )
                return list(answer) if function.startswith("list_") else answer
        except LMError as error:
            return error
        except (openai.OpenAIError, httpx.HTTPError, OSError) as error:
            return explain(error, where=self._where, timeout=settings.timeout, secrets=list(headers.values()))

    def _job_key(self) -> str:
        if self._endpoint.api_key_env:
            return self._key(self._endpoint.api_key_env)
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key and not self._base_url:
            return self._key("OPENAI_API_KEY")
        return key or "none"


def chat_lines(examples: tuple[ChatExample, ...]) -> bytes:
    """The training file: one chat a line, the completion as the assistant's turn."""
    lines = []
    for example in examples:
        turns = [{"role": message.role, "content": message.content} for message in example.messages]
        turns.append({"role": "assistant", "content": example.completion})
        lines.append(json.dumps({"messages": turns}) + "\n")
    return "".join(lines).encode()


def _named(data: bytes) -> tuple[str, io.BytesIO]:
    return "bt-harness.jsonl", io.BytesIO(data)
