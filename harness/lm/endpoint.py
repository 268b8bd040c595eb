"""LMs behind an HTTP endpoint, reached through litellm."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import os
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from harness.errors import (
    AuthenticationError,
    ContentFilterError,
    InvalidRequestError,
    LMError,
    MalformedResponseError,
    UnknownModelError,
    UsageError,
)
from harness.lm.failures import explain
from harness.lm.request import Completion, Request, Usage

__all__ = ["Endpoint", "EndpointProvider", "load_litellm"]

# Litellm insists on some key for these, while servers of one's own seldom want one.
_KEYLESS: Final = {"openai": "OPENAI_API_KEY"}
_WELL_KNOWN: Final = ("openai", "anthropic", "hosted_vllm", "ollama")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach an endpoint. ``timeout`` is for one try, in seconds; ``concurrency`` in requests.

    ``api_key_env`` names the environment variable that holds the key; without it litellm looks where the
    provider's own documentation says. The key itself is never part of a setting. ``headers`` are sent along; at
    level DEBUG litellm logs them, while it masks keys, so a secret belongs into the key.
    Raises `UsageError` for a limit that makes no sense or a URL that is none.
    """

    base_url: str | None = None
    api_key_env: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: float = 60.0
    concurrency: int = 32

    def __post_init__(self) -> None:
        if not self.timeout > 0 or self.concurrency < 1:
            raise UsageError("an endpoint needs a timeout above 0 s and a concurrency of at least 1")
        if self.base_url is not None and urlsplit(self.base_url).scheme not in ("http", "https"):
            raise UsageError("an endpoint's base URL starts with http:// or https://")


def load_litellm() -> Any:
    """Import litellm, which takes seconds, without its price list from the network and without its prints."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


class EndpointProvider:
    """One model string behind one endpoint; see `harness.lm.request.Provider`."""

    def __init__(self, model: str, endpoint: Endpoint | None = None) -> None:
        self._model = model
        self._endpoint = endpoint or Endpoint()
        self._prefix = model.partition("/")[0]
        # Resolved here and handed to litellm, so that the identity names the server that is really asked.
        self._base_url = self._endpoint.base_url or _base_url_from_environment(self._prefix)
        self._where = f"{model} at {_host(self._base_url) or 'the default host of ' + self._prefix}"
        self._litellm: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.concurrency = self._endpoint.concurrency

    def identity(self) -> str:
        """Model string and base URL: another server's answers are other answers."""
        return f"{self._model} {self._base_url or ''}".rstrip()

    async def complete(self, request: Request) -> Completion:
        """Ask the endpoint once, without retries; raises the `LMError` that fits."""
        if request.lm.adapter is not None:
            raise InvalidRequestError(
                f"{self._where} cannot run the adapter {request.lm.adapter[:12]}; tuned weights need a local/ model"
            )
        if self._litellm is None:
            self._litellm = await asyncio.to_thread(load_litellm)
            self._check_known()
        self._loop = asyncio.get_running_loop()
        started = time.perf_counter()
        answer = await self._send(request)
        if isinstance(answer, LMError):
            # Raised here, where neither a local variable nor an exception's context holds the key.
            raise answer
        return self._completion(answer, time.perf_counter() - started)

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

    async def _send(self, request: Request) -> Any:
        """Litellm's response, or the `LMError` to raise."""
        import httpx
        from openai import OpenAIError

        settings = self._endpoint
        try:
            async with asyncio.timeout(settings.timeout):
                return await self._litellm.acompletion(**self._arguments(request))
        except LMError as error:
            return error
        except (OpenAIError, httpx.HTTPError, OSError) as error:
            # All of litellm's errors are OpenAIErrors; the deadline's TimeoutError is an OSError.
            key = os.environ.get(settings.api_key_env, "") if settings.api_key_env else ""
            secrets = [key, *(value for _, value in settings.headers)]
            return explain(error, where=self._where, timeout=settings.timeout, secrets=secrets)

    def _arguments(self, request: Request) -> dict[str, Any]:
        sampling, settings = request.sampling, self._endpoint
        arguments: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "timeout": settings.timeout,
            # The client retries; parameters an LM does not have are left out.
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
        }
        if sampling.top_p != 1:
            # Some LMs refuse temperature and top_p together.
            arguments["top_p"] = sampling.top_p
        if sampling.stop:
            arguments["stop"] = list(sampling.stop)
        if sampling.temperature > 0:
            arguments["seed"] = request.sampling_seed
        if settings.headers:
            arguments["extra_headers"] = dict(settings.headers)
        if self._base_url:
            arguments["base_url"] = self._base_url
        if settings.api_key_env:
            arguments["api_key"] = self._key(settings.api_key_env)
        elif self._base_url and self._prefix in _KEYLESS and not os.environ.get(_KEYLESS[self._prefix]):
            arguments["api_key"] = "none"
        return arguments

    def _key(self, variable: str) -> str:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise AuthenticationError(
                f"{self._where} needs a key, and the environment variable {variable} is not set; set it"
            )
        return key

    def _completion(self, response: Any, seconds: float) -> Completion:
        choices = getattr(response, "choices", None)
        if not choices:
            raise MalformedResponseError(f"{self._where} sent no choice; {_ASK_SERVER}")
        reason = str(getattr(choices[0], "finish_reason", None) or "stop")
        text = getattr(getattr(choices[0], "message", None), "content", None)
        if reason == "content_filter":
            raise ContentFilterError(f"{self._where} withheld the answer (content filter); change the prompt")
        finish: Literal["stop", "length"] = "length" if reason == "length" else "stop"
        if text is None and finish == "length":
            # Cut off before its first visible token (reasoning used them up): an answer, if a useless one.
            text = ""
        if not isinstance(text, str):
            raise MalformedResponseError(f"{self._where} sent a choice without text; {_ASK_SERVER}")
        usage = getattr(response, "usage", None)
        tokens = Usage(int(getattr(usage, "prompt_tokens", 0) or 0), int(getattr(usage, "completion_tokens", 0) or 0))
        return Completion(text, tokens, finish, seconds)


_ASK_SERVER: Final = "look into the server's log if it keeps doing so"


def _base_url_from_environment(prefix: str) -> str | None:
    name = prefix.upper().replace("-", "_")
    return os.environ.get(f"{name}_BASE_URL") or os.environ.get(f"{name}_API_BASE") or None


def _host(url: str | None) -> str:
    """HOST:PORT, without a user name or password that a URL can hold."""
    return urlsplit(url).netloc.rpartition("@")[2] if url else ""


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
