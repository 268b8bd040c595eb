"""The LM table: how each endpoint is reached, as ``pyproject.toml`` or `harness.configure` say it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from harness.errors import UsageError
from harness.lm.endpoint import Endpoint

__all__ = ["SECTION", "Endpoints", "endpoint_for", "endpoints_from", "endpoints_in"]

SECTION: Final = "tool.bt-harness.lm"

Endpoints = Mapping[str, Endpoint]
"""By model string (``openai/gpt-4o``) or by all models of a provider (``openai/*``)."""

_NAME = re.compile(r"[A-Za-z][\w.-]*/\S.*")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET = re.compile(r"key|token|secret|password|authorization|credentials?|cookie", re.IGNORECASE)
# Of a setting whole words alone: max_tokens is no secret. (No value is repeated, whatever the message.)
_SECRET_SETTING = re.compile(rf"(^|[\W_])(api)?({_SECRET.pattern})($|[\W_])", re.IGNORECASE)
_FIELDS: Final = {field.name: field.type for field in fields(Endpoint)}


def endpoints_in(folder: Path) -> Endpoints:
    """The table ``[tool.bt-harness.lm."MODEL"]`` of the folder's ``pyproject.toml``; empty where there is none.

    Raises `UsageError` for what is no such table.
    """
    path = folder / "pyproject.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); mend it.") from error
    found: Any = document
    for part in SECTION.split("."):
        found = found.get(part, {}) if isinstance(found, dict) else {}
    return endpoints_from(found)


def endpoints_from(table: Mapping[str, Any]) -> Endpoints:
    """The endpoints of a table, each an `Endpoint` or a mapping of its fields. Raises `UsageError`."""
    return {name: _endpoint(name, given) for name, given in table.items()}


def endpoint_for(endpoints: Endpoints, model: str) -> Endpoint | None:
    """The settings of a model string: its own, else its provider's."""
    return endpoints.get(model) or endpoints.get(f"{model.partition('/')[0]}/*")


def _endpoint(name: str, given: Any) -> Endpoint:
    where = f'[{SECTION}."{name}"]'
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where} names no LM; write PROVIDER/NAME, or PROVIDER/* for all LMs of a provider.")
    if isinstance(given, Endpoint):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} is no table of settings; settings are {', '.join(_FIELDS)}.")
    values = dict(given)
    for field, value in values.items():
        if field not in _FIELDS:
            if _SECRET_SETTING.search(field):
                # Its value is not repeated: it may be a key.
                raise UsageError(
                    f"{where} has {field!r}: a key has no place in a file. Put it into an environment variable and "
                    'name that: api_key_env = "MY_KEY".'
                )
            raise UsageError(f"{where} has the unknown setting {field!r}; settings are {', '.join(_FIELDS)}.")
        if field != "headers" and not _fits(_FIELDS[field], value):
            raise UsageError(f"{where} has {field} of the wrong type; it is {_FIELDS[field]}.")
    variable = values.get("api_key_env")
    if variable is not None and not _VARIABLE.fullmatch(variable):
        raise UsageError(
            f"{where} has an api_key_env that is no name of an environment variable in capitals, MY_KEY say; "
            "the key itself has no place in a file."
        )
    if "headers" in values:
        values["headers"] = _headers(where, values["headers"])
    try:
        return Endpoint(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}.") from error


def _fits(annotation: Any, value: Any) -> bool:
    """Whether a TOML value may stand for a field; ``annotation`` is its source text."""
    names = {name.strip() for name in str(annotation).split("|")}
    if isinstance(value, bool):
        return "bool" in names
    if isinstance(value, int) and "float" in names:
        return True
    return type(value).__name__ in names


def _headers(where: str, given: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, Mapping) or not all(isinstance(value, str) for value in given.values()):
        raise UsageError(f'{where} has headers that are no table of texts; write headers = {{ "X-Team" = "blue" }}.')
    for name in given:
        if _SECRET.search(name):
            raise UsageError(
                f"{where} has the header {name!r}, which holds a key: a key has no place in a file. Name its "
                "environment variable as api_key_env."
            )
    return tuple(given.items())
