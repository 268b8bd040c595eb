"""What went wrong at an endpoint, as one of this package's errors.

Litellm wraps the same failure differently from provider to provider: broken connections and unreadable answers
both arrive as "internal server error 500". So the chain of causes counts first: what came over the wire, or why
nothing did. Litellm's own class decides only where the chain holds neither.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

from harness.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ContentFilterError,
    ContextTooLongError,
    InvalidRequestError,
    LMError,
    LMTimeoutError,
    MalformedResponseError,
    OverloadedError,
    RateLimitError,
    UnknownModelError,
)

__all__ = ["explain", "hide", "redacted", "retry_after_seconds"]

_SHORTEST_SECRET: Final = 6
_LONGEST_DETAIL: Final = 300
_HIDDEN: Final[set[str]] = set()
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context[ _](length|window|size)|maximum (model|context|input) len|max_model_len|too many tokens"
    r"|prompt is too long|input is too long|exceeds? the (available|maximum) (context|number of tokens)",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content[ _](filter|policy|management policy)|safety (system|policy)|moderation"
    r"|(input|prompt|content|message|request)s? (is|are|was|were|(has|have) been) flagged",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"system (role|turn|message)s? .{0,20}not supported|assistant roles|roles must alternate", re.IGNORECASE
)
_KEY = re.compile(r"api[ _-]?key|x-api-key|credentials? (are|is) (invalid|missing)", re.IGNORECASE)
_NO_KEY = re.compile(r"missing (\w+ )?(api.key|credentials)|api_key\b.{0,80}\bmust be set", re.IGNORECASE | re.DOTALL)
# "You exceeded your current quota" alone says nothing: Gemini says it of a limit per minute as well.
_CREDIT = re.compile(r"insufficient[ _](quota|balance|funds|credit)|credit balance", re.IGNORECASE)
_RETRY_DELAY = re.compile(r'"retryDelay":\s*"([\d.]+)s"')
_MODEL = re.compile(
    r"model[_ ]not[_ ]found"
    r"|(not a valid|invalid|unknown|no such) model\b(?! (\w+ )?(param|output|input|setting|option))"
    # The model's name and nothing more stands between: requests have other things that are not found.
    r"|\bmodel:?\s+([`'\"\\]*[^\s`'\"]+[`'\"]*,?\s+)?(does not exist|(is |was |could |can)?not (be )?found)",
    re.IGNORECASE,
)

_ONE_CHOICE = re.compile(
    r"only one (completion )?choice|['\"]n['\"].{0,40}\b(at most|must be|only|equal to) 1\b", re.IGNORECASE
)


def explain(error: BaseException, *, where: str, timeout: float, secrets: Sequence[str] = ()) -> LMError:
    """The `LMError` for what litellm raised. ``where`` names LM and host, ``timeout`` is the limit in seconds.

    Its text is free of ``secrets`` and of every key in the environment, and it refers to no other exception.
    """
    chain = list(_chain(error))
    status = _status_on_wire(chain)
    said = _detail(error, chain)
    if status is None:
        text = " ".join(str(link) for link in chain)
        failure = _never_answered(error, chain, text, where, timeout, said)
    else:
        body = _body(chain)
        wait = retry_after_seconds(chain, now=time.time())
        if wait is None and (delay := _RETRY_DELAY.search(body)):
            wait = _number(delay[1])  # where Google says it
        failure = _refused(status, chain, body or str(error), where, said, wait)
    failure.args = (redacted(str(failure), secrets),)
    return failure


def hide(*secrets: str) -> None:
    """Have `redacted` know what providers are given: a key in a variable of any name, a URL's password."""
    _HIDDEN.update(secrets)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without secrets: the given ones, those of `hide`, and what environment variables named so hold."""
    hidden = {*secrets, *_HIDDEN, *(value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))}
    # A header's value may be "Bearer KEY".
    hidden |= {word for secret in hidden for word in secret.split()}
    for secret in sorted((s for s in hidden if len(s) >= _SHORTEST_SECRET), key=len, reverse=True):
        for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
            text = text.replace(form, "***")
    return text


def retry_after_seconds(chain: Iterable[BaseException], *, now: float) -> float | None:
    """The wait in seconds that the server's headers ask for: ``retry-after-ms``, seconds or an HTTP date."""
    for link in chain:
        for headers in (
            getattr(getattr(link, "response", None), "headers", None),
            getattr(link, "litellm_response_headers", None),
        ):
            if not headers:
                continue
            if (ms := _number(headers.get("retry-after-ms"))) is not None:
                return ms / 1000
            text = headers.get("retry-after")
            if (seconds := _number(text)) is not None:
                return seconds
            if text:
                try:
                    return max(0.0, parsedate_to_datetime(str(text)).timestamp() - now)
                except ValueError:
                    return None
    return None


def _never_answered(
    error: BaseException, chain: list[BaseException], text: str, where: str, timeout: float, said: str
) -> LMError:
    """No HTTP error came over the wire: nothing came, half an answer, or nothing was sent."""
    import httpx
    import litellm

    names = {type(link).__name__ for link in chain}
    if any(isinstance(link, TimeoutError | httpx.TimeoutException) for link in chain) or "Timeout" in names:
        return LMTimeoutError(f"no answer from {where} within {timeout:g} s; raise the timeout or ask for less at once")
    if any(isinstance(link, httpx.TransportError | ConnectionError) for link in chain):
        reason = next((str(link) for link in chain if isinstance(link, httpx.TransportError)), "") or said
        reason = re.sub(r" ssl:(<[^>]*>|\w+)", "", reason)
        return ConnectionFailedError(
            f"{where} cannot be reached, or broke the connection ({reason}); is the server up and the URL right?"
        )
    if any(isinstance(link, UnicodeError) for link in chain) and "JSONDecodeError" not in names:
        return InvalidRequestError(f"the prompt for {where} cannot be sent: it holds half a character (a surrogate)")
    if isinstance(error, litellm.exceptions.AuthenticationError) or _NO_KEY.search(text):
        return AuthenticationError(f"{where} needs a key, and none is set ({said}); set it in the environment")
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 < status < 600 and status != 500:
        # A provider whose errors litellm translates without keeping the response.
        return _refused(status, chain, text, where, said, None)
    if isinstance(error, litellm.exceptions.BadRequestError):
        return _refused(400, chain, text, where, said, None)
    return MalformedResponseError(f"{where} sent something that is no completion ({said}); is the URL right?")


def _refused(status: int, chain: list[BaseException], text: str, where: str, said: str, wait: float | None) -> LMError:
    """The server answered with an HTTP error."""
    names = {type(link).__name__ for link in chain}
    if status == 402 or (status in (400, 403, 429) and _CREDIT.search(text)):
        return AuthenticationError(f"the account behind the key for {where} has no credit ({said}); top it up")
    if status == 429:
        return RateLimitError(
            f"{where} refused a request as one too many ({said}); ask for less at once", retry_after=wait
        )
    if status in (408, 504):
        return LMTimeoutError(f"{where} gave up waiting ({status}: {said}); ask for less at once", retry_after=wait)
    if status == 500 and _ONE_CHOICE.search(text):
        status = 400  # older servers of llama.cpp refuse n so
    if status >= 500 or status in (409, 425):
        return OverloadedError(f"{where} failed or is overloaded ({status}: {said}); try later", retry_after=wait)
    if status == 413 or (status in (400, 422) and ("ContextWindowExceededError" in names or _CONTEXT.search(text))):
        return ContextTooLongError(
            f"the prompt is too long for {where} ({said}); use fewer or shorter demos, or a longer context"
        )
    if status in (400, 403, 422) and ("ContentPolicyViolationError" in names or _FILTER.search(text)):
        return ContentFilterError(f"{where} withheld the answer ({said}); change the prompt")
    if status in (400, 422):
        if _ROLE.search(text):
            return InvalidRequestError(
                f"the chat template of {where} takes no system turn ({said}); set system_role = false for this LM, "
                "and the instruction goes before the first user turn"
            )
        if _MODEL.search(text):
            status = 404
        elif _KEY.search(text):
            status = 401
    if status in (401, 403):
        return AuthenticationError(
            f"{where} refused the key ({status}: {said}); set the right one in the environment variable of its key"
        )
    if status == 404:
        return UnknownModelError(f"{where} does not exist ({said}); check the model string and the base URL")
    return InvalidRequestError(f"{where} refused the request ({status}: {said}); check its settings")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status_on_wire(chain: list[BaseException]) -> int | None:
    """The HTTP status of an error response."""
    response = _response(chain)
    return None if response is None else int(response.status_code)


def _response(chain: list[BaseException]) -> Any:
    """The error response that came. Litellm invents responses, so only the transport's own error counts."""
    import httpx

    return next((link.response for link in chain if isinstance(link, httpx.HTTPStatusError)), None)


def _body(chain: list[BaseException]) -> str:
    import httpx

    response = _response(chain)
    try:
        return "" if response is None else str(response.text)
    except httpx.StreamError:  # the body was never read
        return ""


def _detail(error: BaseException, chain: list[BaseException]) -> str:
    """What the server said, in one short line."""
    text = _message_of(chain)
    if not text:
        text = re.sub(r"^(litellm\.\w+: |\w+(Error|Exception)( - |: ))+", "", str(error) or type(error).__name__)
        text = text.partition("Traceback (most recent call last)")[0]
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 1] + "…"


def _message_of(chain: list[BaseException]) -> str:
    """The text in an error's JSON body, where servers of all kinds put it."""
    try:
        body: Any = json.loads(_body(chain))
    except ValueError:
        return ""
    if isinstance(body, dict):
        body = body.get("error") or body.get("detail") or body.get("message") or ""
    if isinstance(body, dict):
        body = body.get("message") or ""
    return body if isinstance(body, str) else ""


def _number(text: object) -> float | None:
    try:
        number = float(str(text))
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
