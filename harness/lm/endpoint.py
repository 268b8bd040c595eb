"""LMs behind an HTTP endpoint, reached through litellm."""

from __future__ import annotations

import asyncio
import base64
import difflib
import inspect
import json
import logging
import os
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

from harness.errors import (
    AuthenticationError,
    ContentFilterError,
    InvalidRequestError,
    LMError,
    MalformedResponseError,
    UnknownModelError,
    UsageError,
)
from harness.lm.encode import fold_system
from harness.lm.failures import explain, hide, redacted
from harness.lm.pace import Pace
from harness.lm.request import Completion, Request, Usage

__all__ = ["Endpoint", "EndpointProvider", "load_litellm"]

# Litellm insists on some key for these, while servers of one's own seldom want one.
_KEYLESS: Final = {"openai": "OPENAI_API_KEY"}
# Here litellm sends our header in the place of its own.
_BASIC: Final = ("openai", "anthropic", "ollama", "ollama_chat")
_WELL_KNOWN: Final = ("openai", "anthropic", "hosted_vllm", "ollama")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach an endpoint. ``timeout`` is for one try, in seconds; ``concurrency`` in requests.

    ``api_key_env`` names the environment variable that holds the key; without it litellm looks where the
    provider's own documentation says. The key itself is never part of a setting. ``headers`` are sent along; at
    level DEBUG litellm logs them, while it masks keys, so a secret belongs into the key.
    ``requests_per_minute`` spreads requests evenly; None does not limit them. Limits hold for each model string.
    ``prompt_price`` and ``completion_price`` are in US dollars for a million tokens, for LMs that litellm's price
    list lacks. With ``same_model`` an answer that names another model than was asked counts as a failure and is
    asked for again; servers that answer to any name fail it, so it is off unless asked for.
    ``system_role`` False puts the instruction before the first user turn, for LMs whose chat template refuses a
    system turn (Mistral-7B-Instruct-v0.2's does).
    ``json_schema`` says whether the LM can be held to a JSON schema, which suites may ask for; without it litellm's
    list says so. Up to ``samples`` rollouts of one call are asked for in one request, where litellm knows that the
    provider takes ``n``, until the server refuses it; 1 asks for each on its own.
    ``weights`` is the hub id or path of what a vLLM server runs, so that it can be tuned; ``max_loras`` adapters
    are kept on such a server at once.
    Raises `UsageError` for a limit that makes no sense or a URL that is none.
    """

    base_url: str | None = None
    api_key_env: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: float = 60.0
    concurrency: int = 32
    requests_per_minute: float | None = None
    prompt_price: float | None = None
    completion_price: float | None = None
    same_model: bool = False
    system_role: bool = True
    json_schema: bool | None = None
    samples: int = 8
    weights: str | None = None
    max_loras: int = 4

    def __post_init__(self) -> None:
        if not self.timeout > 0 or min(self.concurrency, self.max_loras, self.samples) < 1:
            raise UsageError(
                "an endpoint needs a timeout above 0 s, and concurrency, samples and max_loras of at least 1"
            )
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise UsageError("an endpoint needs requests_per_minute above 0")
        if min(self.prompt_price or 0.0, self.completion_price or 0.0) < 0:
            raise UsageError("an endpoint's prices are not negative")
        if self.base_url is not None and urlsplit(self.base_url).scheme not in ("http", "https"):
            raise UsageError("an endpoint's base URL starts with http:// or https://")


def load_litellm() -> Any:
    """Import litellm, which takes seconds, without its price list from the network and without its prints."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    for logger in (logging.getLogger(name) for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")):
        # They write to what was stderr at import. Once that is closed, as pytest does, logging reports so on the
        # present stderr, with the whole chain of exceptions and whatever key a server repeated in one of them.
        logger.handlers.clear()
        if _without_keys not in logger.filters:
            logger.addFilter(_without_keys)
    return litellm


def _without_keys(record: logging.LogRecord) -> bool:
    """A log filter: litellm logs what servers say, and some of them repeat the key."""
    record.msg, record.args = redacted(record.getMessage()), None
    if record.exc_info:
        record.exc_text, record.exc_info = redacted(logging.Formatter().formatException(record.exc_info)), None
    return True


class EndpointProvider:
    """One model string behind one endpoint; see `harness.lm.request.Provider`."""

    def __init__(self, model: str, endpoint: Endpoint | None = None) -> None:
        """Raises `UsageError` for a base URL with a password that litellm would not send."""
        self._model = model
        self._endpoint = endpoint or Endpoint()
        self._prefix = model.partition("/")[0]
        # Resolved here and handed to litellm, so that the identity names the server that is really asked.
        url = self._endpoint.base_url or _base_url_from_environment(self._prefix)
        self._base_url, credentials = _apart(url)
        if credentials and self._prefix not in _BASIC:
            raise UsageError(
                f"the base URL of {model} holds a user name or password, and litellm does not send them to "
                f"{self._prefix}/...: leave them out, or reach a server with OpenAI's API as openai/..."
            )
        self._headers = credentials | dict(self._endpoint.headers)
        self._where = f"{model} at {_host(self._base_url) or 'the default host of ' + self._prefix}"
        self._litellm: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        per_minute = self._endpoint.requests_per_minute
        self._pace = Pace(per_minute) if per_minute is not None else None
        self.concurrency = self._endpoint.concurrency

    def identity(self) -> str:
        """Model string and base URL: another server's answers are other answers, and so are those to another prompt."""
        folded = "" if self._endpoint.system_role else " system_role=false"
        return f"{self._model} {self._base_url or ''}".rstrip() + folded

    async def complete(self, request: Request) -> Completion:
        """Ask the endpoint once, without retries; raises the `LMError` that fits."""
        model = self._model_for(request)
        if self._litellm is None:
            self._litellm = await asyncio.to_thread(load_litellm)
            self._check_known()
        self._loop = asyncio.get_running_loop()
        if self._pace is not None:
            await self._pace.turn()
        started = time.perf_counter()
        several = self._count(request) > 1
        answer = await self._send(model, request)
        if several and isinstance(answer, InvalidRequestError):
            # Litellm knows providers, not servers, and some take no n. Nothing was paid for, so this is no retry in
            # the client's sense.
            if self._pace is not None:
                await self._pace.turn()
            answer = await self._send(model, replace(request, ahead=0))
            if not isinstance(answer, LMError):
                self._takes_samples = False
        if isinstance(answer, LMError):
            # Raised here, where neither a local variable nor an exception's context holds the key.
            raise answer
        tokens = _usage(answer)
        try:
            if self._endpoint.same_model:
                self._check_model(model, answer)
            return self._completion(answer, tokens, time.perf_counter() - started)
        except LMError as error:
            error.usage = tokens
            raise

    def takes_schema(self) -> bool:
        """Whether replies can be held to a JSON schema, as the endpoint's settings or litellm's list of models say."""
        said = self._endpoint.json_schema
        return said if said is not None else self._listed_for_schemas

    @cached_property
    def _listed_for_schemas(self) -> bool:
        return bool(load_litellm().supports_response_schema(model=self._model))

    def _model_for(self, request: Request) -> str:
        """The model string to send, which names the tuned weights where the endpoint can run them."""
        if request.lm.adapter is not None:
            raise InvalidRequestError(
                f"{self._where} cannot run the adapter {request.lm.adapter[:12]}; tuned weights need a local/ model"
            )
        return self._model

    def close(self) -> None:
        """Close the connections of the event loop this provider ran on."""
        loop, self._loop = self._loop, None
        if loop is None or not loop.is_running():
            return
        closing = asyncio.run_coroutine_threadsafe(_close_clients(self._litellm, loop), loop)
        try:
            closing.result(0.3)
        except TimeoutError:
            closing.cancel()

    def _check_known(self) -> None:
        try:
            self._litellm.get_llm_provider(self._model)
        except self._litellm.exceptions.BadRequestError:
            known = [str(getattr(name, "value", name)) for name in self._litellm.provider_list]
            near = difflib.get_close_matches(self._prefix, known, n=3) or _WELL_KNOWN
            failure = UnknownModelError(
                f"litellm knows no provider {self._prefix!r} (of {self._model}); a model string is PROVIDER/NAME "
                f"with one of litellm's {len(known)} providers ({', '.join(near)}, ...), or local/NAME_OR_PATH"
            )
        else:
            return
        raise failure

    def _check_model(self, model: str, response: Any) -> None:
        asked, named = (str(name).rpartition("/")[2] for name in (model, getattr(response, "model", None) or ""))
        # Providers answer in the name of the dated version behind an alias.
        if named and not (named.startswith(asked) or asked.startswith(named)):
            raise MalformedResponseError(
                f"{self._where} answered as {named[:100]!r}, another model; {_ASK_SERVER}, or leave same_model out"
            )

    async def _send(self, model: str, request: Request) -> Any:
        """Litellm's response, or the `LMError` to raise."""
        import httpx
        from openai import OpenAIError

        settings = self._endpoint
        try:
            async with asyncio.timeout(settings.timeout):
                return await self._litellm.acompletion(**self._arguments(model, request))
        except LMError as error:
            return error
        except (OpenAIError, httpx.HTTPError, OSError) as error:
            # All of litellm's errors are OpenAIErrors; the deadline's TimeoutError is an OSError.
            return explain(error, where=self._where, timeout=settings.timeout, secrets=list(self._headers.values()))

    def _arguments(self, model: str, request: Request) -> dict[str, Any]:
        sampling, settings = request.sampling, self._endpoint
        arguments: dict[str, Any] = {
            "model": model,
            "messages": self._turns(request),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "timeout": settings.timeout,
            # The client retries; parameters an LM does not have are left out.
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
        }
        if self._prefix == "anthropic":
            # It takes no more; other LMs take 2.
            arguments["temperature"] = min(1.0, sampling.temperature)
        if sampling.top_p != 1:
            # Some LMs refuse temperature and top_p together.
            arguments["top_p"] = sampling.top_p
        if sampling.stop:
            arguments["stop"] = list(sampling.stop)
        if sampling.temperature > 0:
            arguments["seed"] = request.sampling_seed
            if (count := self._count(request)) > 1:
                arguments["n"] = count
        if request.schema:
            schema = {"name": "reply", "schema": json.loads(request.schema), "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        if self._headers:
            arguments["extra_headers"] = dict(self._headers)
        if self._base_url:
            arguments["base_url"] = self._base_url
        if settings.api_key_env:
            arguments["api_key"] = self._key(settings.api_key_env)
        elif self._base_url and self._prefix in _KEYLESS and not os.environ.get(_KEYLESS[self._prefix]):
            arguments["api_key"] = "none"
        return arguments

    def _count(self, request: Request) -> int:
        """How many rollouts to ask for in one request."""
        count = min(request.ahead + 1, self._endpoint.samples)
        return count if count > 1 and request.sampling.temperature > 0 and self._takes_samples else 1

    @cached_property
    def _takes_samples(self) -> bool:
        known = self._litellm.get_supported_openai_params(model=self._model)
        return "n" in (known or ())

    def _turns(self, request: Request) -> list[dict[str, str]]:
        turns = [{"role": str(message.role), "content": message.content} for message in request.messages]
        return turns if self._endpoint.system_role else fold_system(turns) or turns

    def _key(self, variable: str) -> str:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise AuthenticationError(
                f"{self._where} needs a key, and the environment variable {variable} is not set; set it"
            )
        hide(key)
        return key

    def _completion(self, response: Any, tokens: Usage, seconds: float) -> Completion:
        choices = getattr(response, "choices", None)
        if not choices:
            raise MalformedResponseError(f"{self._where} sent no choice; {_ASK_SERVER}")
        text, finish = self._text(choices[0])
        more = []
        for choice in choices[1:]:
            try:
                said, ended = self._text(choice)
            except LMError:
                break  # asked for again as a call of its own, should that rollout be needed
            more.append(Completion(said, finish=ended))
        return Completion(text, tokens, finish, seconds, tuple(more))

    def _text(self, choice: Any) -> tuple[str, Literal["stop", "length"]]:
        """The text of one choice and how it ended; raises the `LMError` that fits where there is none."""
        reason = str(getattr(choice, "finish_reason", None) or "stop")
        message = getattr(choice, "message", None)
        text = getattr(message, "content", None)
        if reason == "content_filter":
            raise ContentFilterError(f"{self._where} withheld the answer (content filter); change the prompt")
        # Litellm keeps what OpenAI alone has apart.
        if not text and (getattr(message, "provider_specific_fields", None) or {}).get("refusal"):
            raise ContentFilterError(f"{self._where} withheld the answer (refusal); change the prompt")
        finish: Literal["stop", "length"] = "length" if reason == "length" else "stop"
        if text is None and message is not None:
            # It used its tokens up on reasoning, called a tool or had nothing to say: an answer, if a useless one.
            text = ""
        if not isinstance(text, str):
            raise MalformedResponseError(f"{self._where} sent a choice without text; {_ASK_SERVER}")
        return text, finish


def _usage(response: Any) -> Usage:
    usage = getattr(response, "usage", None)
    return Usage(int(getattr(usage, "prompt_tokens", 0) or 0), int(getattr(usage, "completion_tokens", 0) or 0))


_ASK_SERVER: Final = "look into the server's log if it keeps doing so"


def _base_url_from_environment(prefix: str) -> str | None:
    name = prefix.upper().replace("-", "_")
    # For ollama_chat litellm takes that of Ollama.
    names = [f"{name}_BASE_URL", f"{name}_API_BASE", *(["OLLAMA_API_BASE"] if prefix == "ollama_chat" else [])]
    return next((url for name in names if (url := os.environ.get(name))), None)


def _host(url: str | None) -> str:
    """HOST:PORT, without a user name or password that a URL can hold."""
    return urlsplit(url).netloc.rpartition("@")[2] if url else ""


def _apart(url: str | None) -> tuple[str | None, dict[str, str]]:
    """A base URL without user name and password, and the header that says them: litellm's clients take no such URL."""
    parts = urlsplit(url or "")
    user, password = (unquote(part or "") for part in (parts.username, parts.password))
    if not user and not password:
        return url, {}
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    hide(password or user, basic)
    return parts._replace(netloc=_host(url)).geturl(), {"Authorization": f"Basic {basic}"}


async def _close_clients(litellm: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close litellm's cached HTTP clients of one event loop.

    Litellm's own clean-up closes those of every loop, also of one that is still busy.
    """
    cache = getattr(litellm.in_memory_llm_clients_cache, "cache_dict", {})
    for name in [name for name in cache if str(name).endswith(f"-{id(loop)}")]:
        client = cache.pop(name, None)
        for method in ("close", "aclose"):
            if inspect.iscoroutinefunction(getattr(client, method, None)):
                await getattr(client, method)()
                break
