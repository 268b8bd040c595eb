"""What is asked of an LM and what comes back: plain values, the same for every provider."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "Completion",
    "LMRef",
    "Message",
    "Provider",
    "Reply",
    "Request",
    "Sampling",
    "StructuredProvider",
    "Usage",
    "digest_of",
]

Role = Literal["system", "user", "assistant"]


def digest_of(value: Any) -> str:
    """sha256 (hex) of a JSON value in canonical form: sorted keys, no blanks."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn. ``temperature`` 0 is greedy; ``max_tokens`` bounds the completion alone.

    With ``constrain`` an LM that can do so chooses among the possible replies, where these can be listed. With
    ``structured`` an LM that can be held to a JSON schema replies with a JSON object instead of text.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    constrain: bool = True
    structured: bool = False


@dataclass(frozen=True, slots=True)
class LMRef:
    """The weights Θ of a program: a model string and, after weight optimization, an adapter's digest.

    ``model`` is a litellm model string (``openai/gpt-...``) or ``local/NAME_OR_PATH``.
    """

    model: str
    adapter: str | None = None


@dataclass(frozen=True)
class Request:
    """One LM call. Calls that differ in ``rollout`` or ``seed`` are separate samples of the same prompt.

    ``choices`` lists every completion that is wanted, where there is such a list: local LMs and vLLM give no other one.
    ``schema`` is the JSON schema that the completion must obey, as JSON text; empty where text is wanted.
    ``ahead`` says how many further rollouts of this call may be asked for, so that an endpoint can be asked for all of
    them at once; it is no part of the call's identity.
    """

    lm: LMRef
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    rollout: int = 0
    seed: int = 0
    choices: tuple[str, ...] = ()
    schema: str = ""
    ahead: int = field(default=0, compare=False)

    @cached_property
    def digest(self) -> str:
        """Identity of the call, without the weights behind the model string (see `Provider.identity`).

        A greedy call has one answer whatever its rollout and seed, so neither counts at temperature 0.
        """
        body = asdict(self)
        del body["ahead"]
        if self.sampling.temperature == 0:
            body["rollout"] = body["seed"] = 0
        return digest_of(body)

    @property
    def sampling_seed(self) -> int:
        """A seed in [0, 2**31) of this call's own, so that no draw depends on which calls ran before."""
        return int(self.digest[:8], 16) >> 1


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """The LM's text, without end-of-turn token. ``finish`` is ``length`` where ``max_tokens`` cut it off.

    ``more`` are the completions of the next rollouts of the same call, where the provider gave several at once; their
    tokens are counted in this one's usage. The client stores each under its own rollout.
    """

    text: str
    usage: Usage = Usage()
    finish: Literal["stop", "length"] = "stop"
    seconds: float = 0.0
    more: tuple[Completion, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion as the client hands it out; ``cached`` where no LM was called for it."""

    completion: Completion
    cached: bool


class Provider(Protocol):
    """Where completions come from. One object serves one model string, from any number of tasks at once."""

    concurrency: int
    """Requests that may be under way at once."""

    def identity(self) -> str:
        """What stands behind the model string (weights, base URL): part of the key of cached calls."""
        ...

    async def complete(self, request: Request) -> Completion:
        """Answer one request; raises `LMError`. Runs on the client's event loop and must not block it."""
        ...

    def close(self) -> None:
        """Give back memory, threads and connections."""
        ...


@runtime_checkable
class StructuredProvider(Protocol):
    """A provider that can be held to a JSON schema (`Request.schema`)."""

    def takes_schema(self) -> bool:
        """Whether this model does; may import a library to find out."""
        ...


ProviderFactory = Callable[[str], Provider]
"""Makes the provider of a model string; raises `UnknownModelError`."""
