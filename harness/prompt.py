"""Values to chat turns and back: ``field: value`` lines that read back to the same values.

A value is written plainly where that reads back to the same value, as an indented block or a bulleted list
where it has several lines or items, and as JSON otherwise. Reading is more lenient than writing, since LMs are:
the case of field names, markdown around them and around values, text before the first field, other bullets and code
fences are forgiven, and so are a JSON object of the fields and thoughts before the reply (``<think>``). LMs that can be
held to a JSON schema are asked for that object where a suite wants it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pydantic import ConfigDict, RootModel, create_model
from pydantic_core import to_jsonable_python

from harness.errors import ParseError, SuiteError
from harness.lm.request import Message
from harness.signature import REASONING, Field, Signature
from harness.state import Demo, Prompt

__all__ = [
    "REFUSALS",
    "chat",
    "demo_turns",
    "possible_replies",
    "read_fields",
    "read_reply",
    "reply_schema",
    "system_text",
    "write_fields",
    "write_reply",
]

REFUSALS = (ValueError, TypeError, AssertionError)
"""What types raise on values they do not take: pydantic's validation errors, and those of a ``__post_init__``."""

_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
_FENCE = re.compile(r"```[\w-]*\n(.*?)\n?```", re.DOTALL)
_FENCE_LINE = re.compile(r"^```[\w-]*[ \r]*$\n?", re.MULTILINE)
_THINK, _THOUGHT = "<think>", "</think>"
_BULLET = re.compile(r"^(?:[*\u2022]|\d{1,3}[.)])[ \t]+", re.MULTILINE)


def system_text(signature: Signature, instruction: str | None = None, *, structured: bool = False) -> str:
    """The system turn: the instruction, the inputs that have a description, and the reply that is wanted."""
    blocks = [signature.instruction if instruction is None else instruction]
    described = [f"{field.name}: {field.description}" for field in signature.inputs if field.description]
    if described:
        blocks.append("\n".join(["Given:", *described]))
    wanted = "Reply with a JSON object:" if structured else "Reply with:"
    blocks.append("\n".join([wanted, *(_wanted(field, structured) for field in signature.reply)]))
    return "\n\n".join(blocks)


def _wanted(field: Field, structured: bool) -> str:
    # The strict form of a schema has every field.
    return f"{field.name}: {field.hint}" + ("" if field.required or structured else ", may be left out")


def chat(
    signature: Signature, prompt: Prompt, inputs: Mapping[str, Any], *, structured: bool = False
) -> tuple[Message, ...]:
    """All turns of one call: instruction, demos as earlier turns, then the inputs.

    ``structured`` asks for replies, and shows those of the demos, as JSON objects. Raises `SuiteError` naming the
    module and the field where a value cannot be written.
    """
    with _naming(signature):
        demos = [turn for demo in prompt.demos for turn in demo_turns(signature, demo, structured=structured)]
        return (
            Message("system", system_text(signature, prompt.instruction, structured=structured)),
            *demos,
            Message("user", write_fields(signature.inputs, inputs)),
        )


@contextmanager
def _naming(signature: Signature) -> Iterator[None]:
    """Have errors name the module: a value that cannot be written is the suite's fault, never a wrong answer."""
    try:
        yield
    except SuiteError as error:
        raise SuiteError(f"module {signature.name!r}: {error}") from error


def demo_turns(signature: Signature, demo: Demo, *, structured: bool = False) -> tuple[Message, Message]:
    """One demo as a user turn and the assistant turn that answered it."""
    inputs = from_json(signature.inputs, demo.inputs)
    outputs = from_json([f for f in signature.reply if f.name in demo.outputs], demo.outputs)
    return (
        Message("user", write_fields(signature.inputs, inputs)),
        Message("assistant", write_reply(signature, outputs, structured=structured)),
    )


def write_reply(signature: Signature, outputs: Mapping[str, Any], *, structured: bool = False) -> str:
    """A reply with those of its fields that are given, as `read_reply` reads it."""
    fields = [field for field in signature.reply if field.name in outputs]
    return json.dumps(to_json(fields, outputs), ensure_ascii=False) if structured else write_fields(fields, outputs)


def write_fields(fields: Sequence[Field], values: Mapping[str, Any]) -> str:
    """``name: value`` for each field, a line or a block each; `read_fields` gives the values back.

    Raises `SuiteError` naming the field where no text does.
    """
    return "\n".join(_write(field, values[field.name], fields) for field in fields)


def read_reply(signature: Signature, completion: str) -> dict[str, Any]:
    """The output values of a completion, reasoning included. Raises `ParseError` naming the field that fails.

    A reply without any field name is taken as the value where one output is wanted (but not as a free text
    after reasoning, where it is more likely half an answer), and text before the first field as the reasoning
    where that has no name of its own. Outputs that are not required may be missing, but not all of them.

    What an LM thinks between ``<think>`` and ``</think>`` before its reply is no part of it, but is taken as the
    reasoning where a reply has no other.
    """
    try:
        completion.encode()
    except UnicodeEncodeError as error:
        raise ParseError(f"the completion is no text: {error}") from error
    if (found := _object(signature, completion)) is not None:
        return found
    thoughts, completion = _thoughts(signature, completion)
    if thoughts is not None and (found := _object(signature, completion)) is not None:
        return found
    spans, before = _split_reply(signature.reply, completion)
    if not spans and (fenced := _FENCE.search(completion)) and (found := _object(signature, fenced.group(1))):
        return found
    outputs = signature.outputs
    if len(outputs) == 1 and not spans and not (signature.reasoning and outputs[0].is_text):
        spans, before = {outputs[0].name: before}, ""
    none = not any(field.name in spans for field in outputs)
    values: dict[str, Any] = {}
    for field in signature.reply:
        if field.name in spans:
            values[field.name] = _read(field, spans[field.name])
        elif field.name == REASONING and signature.reasoning:
            values[REASONING] = before.strip() or thoughts or ""
        elif field.required or none:
            raise ParseError(f"the completion has no field {field.name!r}: {_short(completion)}")
    return values


@lru_cache(maxsize=1024)
def reply_schema(signature: Signature) -> str:
    """The JSON schema of a reply, as JSON text, in the strict form that OpenAI asks for.

    All fields are required and no others allowed
    (https://platform.openai.com/docs/guides/structured-outputs#supported-schemas).
    """
    wanted: dict[str, Any] = {field.name: (field.annotation, ...) for field in signature.reply}
    model = create_model("Reply", __config__=ConfigDict(protected_namespaces=()), **wanted)
    return json.dumps(_strict(model.model_json_schema(by_alias=False)))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(item) for name, item in schema.items() if name not in ("title", "default")}
    if isinstance(properties := schema.get("properties"), dict):
        strict["properties"] = {name: _strict(item) for name, item in properties.items()}
        strict |= {"required": list(properties), "additionalProperties": False}
    return strict


@lru_cache(maxsize=1024)
def possible_replies(signature: Signature) -> tuple[str, ...]:
    """Every reply a module can give, where that is a list: one output of a ``Literal``, an ``Enum`` or ``bool``."""
    if len(signature.reply) != 1:
        return ()
    (field,) = signature.reply
    with _naming(signature):
        return tuple(write_fields([field], {field.name: value}) for value in field.values)


def read_fields(fields: Sequence[Field], text: str) -> dict[str, Any]:
    """The values of a turn that `write_fields` wrote. Raises `ParseError` naming the field that fails."""
    spans, _ = _split(fields, text)
    for field in fields:
        if field.name not in spans:
            raise ParseError(f"there is no field {field.name!r} in: {_short(text)}")
    return {field.name: _read(field, spans[field.name]) for field in fields}


def to_json(fields: Sequence[Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as plain JSON, for demos and stored traces."""
    return {field.name: _dump(field, values[field.name]) for field in fields if field.name in values}


def from_json(fields: Sequence[Field], values: Mapping[str, Any]) -> dict[str, Any]:
    given = [field for field in fields if field.required or field.name in values]
    return {field.name: field.read_json(json.dumps(values[field.name])) for field in given}


def _dump(field: Field, value: Any) -> Any:
    return _settled(value, field.dump(value))


def _settled(value: Any, dumped: Any) -> Any:
    """``dumped``, the JSON of ``value``, with the items of sets in order: a set has another one in every process."""
    if isinstance(value, RootModel):
        return _settled(value.root, dumped)
    parts: list[Any] = []
    if isinstance(dumped, dict):
        parts = list(value.values()) if isinstance(value, Mapping) else [getattr(value, key, None) for key in dumped]
    elif isinstance(dumped, list) and isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)
    if not parts or len(parts) != len(dumped):  # a plain value, or one that writes itself in its own way
        return dumped
    if isinstance(dumped, dict):
        return {key: _settled(part, item) for part, (key, item) in zip(parts, dumped.items(), strict=True)}
    items = [_settled(part, item) for part, item in zip(parts, dumped, strict=True)]
    return sorted(items, key=_rank) if isinstance(value, (set, frozenset)) else items


def _rank(item: Any) -> tuple[float, str]:
    """Numbers by size, then everything else by its text."""
    size = item if isinstance(item, (int, float)) and item == item else math.inf
    return size, json.dumps(item, sort_keys=True, ensure_ascii=False)


# Writing

_REMEDY = "Change the field's annotation, or convert the value in the program."


def _write(field: Field, value: Any, fields: Sequence[Field]) -> str:
    try:
        texts = list(_renderings(field, value))
    except ValueError as error:  # pydantic cannot say it in JSON
        raise SuiteError(f"the value of the field {field.name!r} cannot be written: {error}. {_REMEDY}") from error
    for text in texts:
        separator = "" if text.startswith("\n") or not text else " "
        line = f"{field.name}:{separator}{text}"
        spans, _ = _split(fields, line)
        if list(spans) != [field.name]:
            continue
        try:
            back = _read(field, spans[field.name])
        except ParseError:
            continue
        if _same(back, value):
            return line
    raise SuiteError(
        f"the value {_short(repr(value))} of the field {field.name!r} would not be read back from its text. {_REMEDY}"
    )


def _renderings(field: Field, value: Any) -> Iterator[str]:
    """From the most readable to JSON, which always reads back."""
    dumped = _dump(field, value)
    if isinstance(dumped, str):
        yield "\n" + "\n".join(f"  {line}" for line in dumped.split("\n")) if "\n" in dumped else dumped
    elif isinstance(dumped, list) and dumped and all(isinstance(item, (str, int, float)) for item in dumped):
        items = (item if isinstance(item, str) else json.dumps(item) for item in dumped)
        yield "\n" + "\n".join("- " + item.replace("\n", "\n  ") for item in items)
        yield "\n" + "\n".join("- " + json.dumps(item, ensure_ascii=False) for item in dumped)
    yield json.dumps(dumped, ensure_ascii=False)


def _same(first: Any, second: Any) -> bool:
    """Whether ``first``, read back, stands for ``second``: equal in type and value as far as JSON tells types apart.

    JSON has one kind of list, and its keys are texts. By ``repr`` as well, since NaN is unlike itself; item by item,
    since 1 equals 1.0 inside a list.
    """
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        kind = type(first) in (list, type(second))
        return kind and len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        keys = all(isinstance(key, str) or _same(key, other) for key, other in zip(first, second, strict=False))
        return keys and len(first) == len(second) and all(map(_same, first.values(), second.values()))
    return type(first) is type(second) and (repr(first) == repr(second) or bool(first == second))


# Reading


def _split(fields: Sequence[Field], text: str) -> tuple[dict[str, str], str]:
    """The raw text of each field that is there, and the text before the first of them."""
    names = sorted((field.name for field in fields), key=len, reverse=True)
    pattern = "|".join(f"({re.escape(name)})" for name in names)
    starts = list(re.finditer(rf"^[*`#_ ]*(?:{pattern})[*`_ ]*:(?:\*\*)?", text, re.MULTILINE | re.IGNORECASE))
    starts = [start for start in starts if not start.group(0).startswith("  ")]
    spans: dict[str, str] = {}
    ends = [*(start.start() for start in starts[1:]), len(text)]
    for start, end in zip(starts, ends, strict=False):
        assert start.lastindex is not None  # some name matched
        span = text[start.end() : end]
        if start[0].count("**") == 1:  # bold type that began before the value ends in it: **answer: 42**
            span = span.replace("**", "", 1)
        spans.setdefault(names[start.lastindex - 1], span)
    return spans, text[: starts[0].start()] if starts else text


def _thoughts(signature: Signature, completion: str) -> tuple[str | None, str]:
    """What the LM thought before its reply (None where it did not say), and the reply.

    Some chat templates write the opening tag themselves. A tag in a value of the reply is text.
    """
    text = completion.lstrip()
    opened = text.startswith(_THINK)
    thoughts, closed, reply = text.removeprefix(_THINK).partition(_THOUGHT)
    if opened and not closed:
        raise ParseError(f"the completion ends within its thoughts (raise max_tokens): {_short(text)}")
    in_value = _THINK in thoughts or not _split(signature.reply, text)[1]
    if not closed or (not opened and in_value):
        return None, completion
    return thoughts.strip(), reply


def _split_reply(fields: Sequence[Field], text: str) -> tuple[dict[str, str], str]:
    """`_split` without the code fence that all the fields may be in."""
    spans, before = _split(fields, text)
    fences, body = list(_FENCE_LINE.finditer(before)), text.rstrip()
    # An even number of them: the last one ends a block before the fields.
    is_open = spans and len(fences) % 2 and not before[fences[-1].end() :].strip()
    if not is_open or not body.endswith("\n```"):
        return spans, before
    return _split(fields, before[: fences[-1].start()] + body.removesuffix("\n```")[len(before) :])


def _object(signature: Signature, completion: str) -> dict[str, Any] | None:
    """The values of a reply that is a JSON object of its fields; what is not required may be missing. Else None."""
    text = completion.strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced.group(1)
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # no JSON, half a surrogate pair, or nested too deeply
        return None
    known = {REASONING, *(field.name for field in signature.outputs)}
    needed = {field.name for field in signature.outputs if field.required}
    if not isinstance(found, dict) or not needed <= set(found) <= known:
        return None
    values: dict[str, Any] = {}
    for field in signature.reply:
        if not field.required and field.name not in found:
            continue
        try:
            values[field.name] = field.read_json(json.dumps(found.get(field.name, "")))
        except REFUSALS:
            # Numbers as texts, options in another case: what is forgiven in text is forgiven here.
            values[field.name] = _read(field, _text_of(found[field.name]))
    return values


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(field: Field, raw: str) -> Any:
    text = _dedent(raw)
    for attempt in _attempts(field, text):
        try:
            return attempt()
        except REFUSALS:
            continue
    raise ParseError(f"the field {field.name!r} wants {field.hint or 'text'}, not: {_short(text)}")


def _attempts(field: Field, text: str) -> Iterator[Any]:
    if field.is_text:
        if text.startswith('"'):
            yield lambda: field.read_python(_json_text(text))
        yield lambda: field.read_python(text)
        return
    fenced = _FENCE.search(text)
    if fenced:
        yield lambda: field.read_json(fenced.group(1))
    yield lambda: field.read_json(text)
    if text.startswith("- "):
        items = re.split(r"^- ", "\n" + text, flags=re.MULTILINE)[1:]
        plain = [_dedent("\n" + item, bullet=True) for item in items]
        yield lambda: field.read_json("[" + ",".join(plain) + "]")
        yield lambda: field.read_python(plain)
    elif _BULLET.match(text):
        listed = [_dedent("\n" + item, bullet=True) for item in _BULLET.split(text)[1:]]
        yield lambda: field.read_json("[" + ",".join(listed) + "]")
        yield lambda: field.read_python(listed)
    yield lambda: field.adapter.validate_strings(text, by_alias=True, by_name=True)
    if field.options:
        yield lambda: field.read_python(_option(field.options, text))
        yield lambda: field.read_json(_option(field.options, text))
    bare = _unmarked(text)
    yield lambda: field.adapter.validate_strings(bare, by_alias=True, by_name=True)
    if _THOUSANDS.fullmatch(bare):
        yield lambda: field.read_json(bare.replace(",", "").lstrip("+"))
    yield lambda: field.read_python(text)


def _dedent(raw: str, *, bullet: bool = False) -> str:
    """The value without the blanks that only lay it out: an indented block loses its two blanks a line."""
    if bullet:
        return raw.removeprefix("\n").rstrip("\r\n").replace("\n  ", "\n")  # blank lines only part the items
    body = raw.removeprefix("\n").removesuffix("\n")
    lines = body.split("\n")
    if raw.startswith("\n") and all(line.startswith("  ") for line in lines):
        return "\n".join(line[2:] for line in lines)
    return raw.strip()


def _json_text(text: str) -> str:
    value = json.loads(text)
    if not isinstance(value, str):
        raise ValueError(text)
    value.encode()  # half a surrogate pair is no text
    return value


def _option(options: Sequence[str], text: str) -> str:
    """The one option meant by a text that differs from it in case, quotes, markdown or a full stop."""
    wanted = _bare(text)
    found = [option for option in options if wanted and _bare(option) == wanted]
    if len(found) != 1:
        raise ValueError(text)
    return found[0]


def _bare(option: str) -> str:
    return _unmarked(option).casefold()


def _unmarked(text: str) -> str:
    """A short value without quotes, markdown and the full stop of a sentence."""
    return text.strip().rstrip(".").strip("*`\"'").strip().rstrip(".")


def _short(text: str, limit: int = 200) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def plain(value: Any, fallback: Callable[[Any], str]) -> Any:
    """Any value as JSON, bytes as base64; ``fallback`` gives the text of what JSON has no form for."""
    return _settled(value, to_jsonable_python(value, by_alias=False, bytes_mode="base64", fallback=fallback))


def shown(value: Any, limit: int = 300) -> str:
    """A value as short text for people."""
    text = value if isinstance(value, str) else json.dumps(plain(value, repr), ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
