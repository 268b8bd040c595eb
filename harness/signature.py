"""The contract of a module: typed input and output fields and an instruction, read off a Python function."""

from __future__ import annotations

import dataclasses
import dis
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from types import CodeType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, RootModel, TypeAdapter
from pydantic.fields import FieldInfo

from harness.errors import ModuleDefinitionError

__all__ = ["Field", "Signature", "signature_of"]

REASONING = "reasoning"

# What CPython compiles an empty body to: a docstring, `...` or `pass` leave no more than these (3.11 to 3.14).
_EMPTY_BODY = {
    "CACHE", "CALL_INTRINSIC_1", "COPY_FREE_VARS", "LOAD_CONST", "NOP", "NOT_TAKEN", "POP_TOP", "RERAISE",
    "RESUME", "RETURN_CONST", "RETURN_GENERATOR", "RETURN_VALUE",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Field:
    """One named, typed value of a prompt. ``description`` comes from ``Annotated[T, "..."]``.

    An output that is not ``required`` may be missing in a reply: its type has a default for it.
    """

    name: str
    annotation: Any
    description: str = ""
    required: bool = True

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.annotation)

    def dump(self, value: Any) -> Any:
        """The value as JSON. The fields of models have their names: an alias may be one for reading alone."""
        return self.adapter.dump_python(value, mode="json", by_alias=False)

    def read_json(self, text: str) -> Any:
        """The value of a JSON text, which may have the aliases of fields as well as their names."""
        return self.adapter.validate_json(text, by_alias=True, by_name=True)

    def read_python(self, value: Any) -> Any:
        """The value, validated; dictionaries are models as in `read_json`."""
        return self.adapter.validate_python(value, by_alias=True, by_name=True)

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """Every value of a ``Literal``, an ``Enum`` or ``bool``; empty for types that have no such list."""
        bare = _bare(self.annotation)
        if typing.get_origin(bare) is Literal:
            return typing.get_args(bare)
        if isinstance(bare, type) and issubclass(bare, Enum):
            return tuple(bare)
        return (True, False) if bare is bool else ()

    @cached_property
    def options(self) -> tuple[str, ...]:
        """The texts allowed for a ``Literal`` or an ``Enum``; empty for every other type."""
        if _bare(self.annotation) is bool:
            return ()
        plain = (value.value if isinstance(value, Enum) else value for value in self.values)
        return tuple("null" if value is None else str(value) for value in plain)

    @cached_property
    def is_text(self) -> bool:
        return _bare(self.annotation) is str

    @cached_property
    def hint(self) -> str:
        """What the prompt says about the value that is wanted."""
        return ", ".join(part for part in (self._kind(), self.description) if part)

    def _kind(self) -> str:
        bare = _bare(self.annotation)
        if self.options:
            return f"one of {', '.join(self.options)}"
        if bare is str:
            return "" if self.description else "text"
        if bare is bool:
            return "true or false"
        if bare is int:
            return "a whole number"
        if bare is float:
            return "a number"
        if (typing.get_origin(bare) or bare) in (list, tuple, set, frozenset):
            return 'a list, one "- item" per line'
        return f"JSON of the schema {_compact(self.adapter.json_schema(by_alias=False))}"


@dataclass(frozen=True, eq=False)
class Signature:
    """Name, instruction and fields of one module. ``build`` turns parsed output values into the return value.

    With ``reasoning`` the LM writes a free text before the outputs, which the trace keeps and ``build`` drops.
    """

    name: str
    instruction: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    build: Callable[[Mapping[str, Any]], Any]
    reasoning: bool = False

    @cached_property
    def reply(self) -> tuple[Field, ...]:
        """All fields of a completion, in order: the reasoning, where there is one, then the outputs."""
        if not self.reasoning:
            return self.outputs
        return (Field(REASONING, Annotated[str, "think step by step"], "think step by step"), *self.outputs)


def signature_of(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    output: str = "answer",
    reasoning: bool = False,
    namespace: Mapping[str, Any] | None = None,
) -> Signature:
    """Read the contract off a function with an empty body.

    ``namespace`` holds names, beside the function's globals, that its annotations may use. Raises
    `ModuleDefinitionError` where the function has code, a parameter or the return value lacks an annotation,
    or a type is one pydantic cannot validate.
    """
    where = f"module {function.__qualname__!r} ({_location(function)})"
    _require_empty_body(function.__code__, where)
    try:
        hints = typing.get_type_hints(function, localns=dict(namespace or {}), include_extras=True)
    except NameError as error:
        raise ModuleDefinitionError(
            f"{where}: the annotation name {error.name!r} is not defined; define or import it above the module."
        ) from error
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ModuleDefinitionError(f"{where}: *{parameter.name} is no prompt field; name each input.")
        if parameter.name not in hints:
            raise ModuleDefinitionError(
                f"{where}: the parameter {parameter.name!r} has no annotation; write {parameter.name}: str, say."
            )
    if hints.get("return", type(None)) is type(None):
        raise ModuleDefinitionError(f"{where}: the return annotation is missing; it says what the LM answers.")
    inputs = tuple(_field(key, hints[key], where) for key in parameters)
    outputs, build = _outputs(hints["return"], output, where)
    taken = [REASONING] if reasoning else []
    for field in (*inputs, *outputs):
        if like := next((name for name in taken if _alike(name, field.name)), None):
            differs = "" if like == field.name else f" ({like!r}: the case of names does not count)"
            raise ModuleDefinitionError(
                f"{where}: the field {field.name!r} has the name of another field{differs}; choose another."
            )
        taken.append(field.name)
    return Signature(
        name=name or function.__name__,
        instruction=inspect.getdoc(function) or _default_instruction(inputs, outputs),
        inputs=inputs,
        outputs=outputs,
        build=build,
        reasoning=reasoning,
    )


def _outputs(annotation: Any, name: str, where: str) -> tuple[tuple[Field, ...], Callable[[Mapping[str, Any]], Any]]:
    """Several fields for a dataclass, NamedTuple or pydantic model, otherwise one."""
    bare = _bare(annotation)
    if isinstance(bare, type):
        if issubclass(bare, BaseModel) and not issubclass(bare, RootModel):
            fields = tuple(
                _field(key, _annotated(info), where, info.description or "", required=info.is_required())
                for key, info in bare.model_fields.items()
            )
            return fields, lambda values: bare.model_validate(dict(values), by_alias=False, by_name=True)
        if dataclasses.is_dataclass(bare) or (issubclass(bare, tuple) and hasattr(bare, "_fields")):
            hints = typing.get_type_hints(bare, include_extras=True)
            keys = (
                [field.name for field in dataclasses.fields(bare) if field.init]
                if dataclasses.is_dataclass(bare)
                else list(bare._fields)
            )
            taken = inspect.signature(bare)
            try:
                taken.bind(**dict.fromkeys(keys))
            except TypeError as error:
                raise ModuleDefinitionError(
                    f"{where}: {bare.__name__} cannot be made of its fields ({error}); give the rest a default."
                ) from error
            needed = {key for key, parameter in taken.parameters.items() if parameter.default is parameter.empty}
            fields = tuple(_field(key, hints[key], where, required=key in needed) for key in keys)
            return fields, lambda values: bare(**values)
    if not name.isidentifier():
        raise ModuleDefinitionError(f"{where}: the output name {name!r} is not a Python identifier.")
    return (_field(name, annotation, where),), lambda values: values[name]


def _field(name: str, annotation: Any, where: str, description: str = "", *, required: bool = True) -> Field:
    field = Field(name, annotation, description or _description(annotation), required)
    try:
        _ = field.adapter
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise ModuleDefinitionError(
            f"{where}: the field {name!r} has a type pydantic cannot validate ({annotation!r}); "
            "use str, numbers, bool, Literal, Enum, lists, dataclasses or pydantic models."
        ) from error
    for value in field.values:
        try:
            read = field.read_json(json.dumps(field.dump(value)))
        except ValueError:
            read = None
        if read != value:
            raise ModuleDefinitionError(
                f"{where}: the option {value!r} of the field {name!r} does not read back from JSON; "
                "use texts or numbers."
            )
    return field


def _alike(first: str, second: str) -> bool:
    """Whether a reader that forgives the case of names takes one for the other."""
    return re.fullmatch(re.escape(first), second, re.IGNORECASE) is not None


def _annotated(info: FieldInfo) -> Any:
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation


def _description(annotation: Any) -> str:
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, str):
            return extra
        if isinstance(extra, FieldInfo) and extra.description:
            return extra.description
    return ""


def _bare(annotation: Any) -> Any:
    if typing.get_origin(annotation) is Annotated:
        return _bare(typing.get_args(annotation)[0])
    value = getattr(annotation, "__value__", None)  # a `type X = ...` alias of Python 3.12
    return annotation if value is None or isinstance(annotation, type) else _bare(value)


def _default_instruction(inputs: tuple[Field, ...], outputs: tuple[Field, ...]) -> str:
    given, wanted = (", ".join(field.name for field in fields) for fields in (inputs, outputs))
    return f"Given {given}, produce {wanted}." if given else f"Produce {wanted}."


def _require_empty_body(code: CodeType, where: str) -> None:
    constants = [
        step.argval for step in dis.get_instructions(code) if step.opname.startswith(("LOAD_CONST", "RETURN_CONST"))
    ]
    names = {step.opname for step in dis.get_instructions(code)}
    if not names <= _EMPTY_BODY or any(value is not None for value in constants):
        raise ModuleDefinitionError(
            f"{where} has code in its body, but an LM call replaces the body; leave only the docstring and put "
            "the code into the program that calls the module."
        )


def _location(function: Callable[..., Any]) -> str:
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
