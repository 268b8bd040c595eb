"""Every error the harness raises, each with one cause and its remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.lm.request import Usage

__all__ = [
    "AdapterError",
    "AuthenticationError",
    "BudgetError",
    "ConnectionFailedError",
    "ContentFilterError",
    "ContextTooLongError",
    "DataError",
    "DataMissingError",
    "HarnessError",
    "InvalidRequestError",
    "LMError",
    "LMTimeoutError",
    "MalformedResponseError",
    "MetricError",
    "ModuleDefinitionError",
    "NothingToTrainError",
    "OverloadedError",
    "ParseError",
    "RateLimitError",
    "StoreError",
    "SuiteError",
    "TrainingError",
    "TunedProgramError",
    "UnknownModelError",
    "UsageError",
]


class HarnessError(Exception):
    """Base of all errors of this package: the message names the cause and the remedy."""


class UsageError(HarnessError):
    """An option, setting or strategy that is not allowed; the message says what is."""


class ModuleDefinitionError(HarnessError):
    """A decorated function that cannot be an LM call: code in its body, a parameter without annotation."""


class SuiteError(HarnessError):
    """A suite whose program, data or metric do not fit together."""


class DataError(SuiteError):
    """Splits that are missing, empty or share an example."""


class DataMissingError(DataError):
    """Data that is not on this machine; the message says how to get it. The suite is skipped with it."""


class MetricError(SuiteError):
    """A metric that returned something other than a bool or a float in [0, 1]."""


class BudgetError(HarnessError):
    """The run may not spend more on LMs. What it would have found is left out, neither wrong nor unscored."""


class ParseError(HarnessError):
    """A completion that does not hold the declared outputs. It counts as a wrong answer."""


class StoreError(HarnessError):
    """The store's file or folder cannot be read or written."""


class AdapterError(HarnessError):
    """LoRA weights that are missing, truncated or made for another model."""


class TrainingError(HarnessError):
    """Weight optimization that failed for a reason of its own, out of memory for example."""


class NothingToTrainError(HarnessError):
    """No trace passed the metric, or none is short enough: a weight step has no data and the score is a dash."""


class TunedProgramError(HarnessError):
    """A tuned program's file that cannot be read or does not belong to the program it is loaded for."""


class LMError(HarnessError):
    """A completion that could not be had. The example stays unscored: it is never a wrong answer.

    ``fatal`` errors hold for every later call as well (a wrong key, an unknown model), so the run stops.
    ``transient`` errors are worth another try; ``retry_after`` is the wait in seconds the server asked for.
    ``usage`` are the tokens of an answer that came and could not be used: it is paid for all the same.
    """

    fatal: bool = False
    transient: bool = False
    usage: Usage | None = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AuthenticationError(LMError):
    """The endpoint refused the key."""

    fatal = True


class UnknownModelError(LMError):
    """No LM of this name is there."""

    fatal = True


class InvalidRequestError(LMError):
    """The endpoint refused the request itself."""


class ContextTooLongError(LMError):
    """Prompt and completion do not fit into the LM's context."""


class ContentFilterError(LMError):
    """The provider withheld the answer."""


class RateLimitError(LMError):
    """Too many requests (429)."""

    transient = True


class OverloadedError(LMError):
    """The server failed or is overloaded (5xx)."""

    transient = True


class LMTimeoutError(LMError):
    """No answer within the timeout."""

    transient = True


class ConnectionFailedError(LMError):
    """The endpoint could not be reached, or the connection broke."""

    transient = True


class MalformedResponseError(LMError):
    """The endpoint sent half an answer, or something that is no completion."""

    transient = True
