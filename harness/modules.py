"""``@module``: a typed Python function without a body becomes an LM call."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, ParamSpec, TypeVar, overload

from pydantic import ValidationError

from harness.context import Context, current
from harness.errors import ModuleDefinitionError, ParseError, SuiteError
from harness.lm.request import Message, Reply, Request
from harness.prompt import REFUSALS, chat, possible_replies, read_reply, reply_schema, to_json
from harness.signature import Signature, signature_of
from harness.state import Prompt
from harness.trace import ModuleCall

__all__ = ["Module", "module"]

P = ParamSpec("P")
R = TypeVar("R")


class Module(Generic[P, R]):
    """One LM call with typed inputs and outputs. Call it like the function it was made from.

    Raises `ParseError` where the completion does not hold the declared outputs, and `LMError` where there is
    no completion. ``async def`` functions make awaitable calls.
    """

    signature: Signature

    def __init__(self, function: Callable[P, R], signature: Signature) -> None:
        self.signature = signature
        self._parameters = inspect.signature(function)
        self.asynchronous = inspect.iscoroutinefunction(function)
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        inputs = self._inputs(args, kwargs)
        if self.asynchronous:
            return self._ask(inputs)  # type: ignore[return-value]
        context = current(self.signature.name)
        call = _Call(self.signature, context, inputs)
        return call.finish(context.client.call(call.request))  # type: ignore[no-any-return]

    async def _ask(self, inputs: Mapping[str, Any]) -> Any:
        context = current(self.signature.name)
        call = _Call(self.signature, context, inputs)
        return call.finish(await context.client.ask(call.request))

    def messages(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Message, ...]:
        """The chat turns that a call with these arguments would send with the original prompt."""
        return chat(self.signature, Prompt(), self._inputs(args, kwargs))

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = self._parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        values = {}
        for field in self.signature.inputs:
            try:
                values[field.name] = field.read_python(bound.arguments[field.name])
            except ValidationError as error:
                raise SuiteError(
                    f"module {self.signature.name!r}: the input {field.name!r} is not {field.annotation!r}: "
                    f"{error.errors()[0]['msg']}. Convert it in the program or change the annotation."
                ) from error
        return values

    def __repr__(self) -> str:
        return f"<module {self.signature.name}>"


class _Call:
    """One call under way: its request, and its place in the trace."""

    def __init__(self, signature: Signature, context: Context, inputs: Mapping[str, Any]) -> None:
        self._signature, self._recorder = signature, context.recorder
        lm, sampling = context.state.lm, context.sampling
        structured = sampling.structured and context.client.takes_schema(lm.model)
        request = Request(
            lm,
            chat(signature, context.state.prompt(signature.name), inputs, structured=structured),
            sampling,
            context.rollout,
            context.seed,
            possible_replies(signature) if sampling.constrain and not structured else (),
            reply_schema(signature) if structured else "",
            # What later calls of a run ask depends on what the first was answered.
            context.ahead if context.ahead and not self._recorder.trace.calls else 0,
        )
        repeat = self._recorder.repeat(request)
        if repeat:  # far from every rollout's index, so that a repeated question is a sample of its own
            request = replace(request, rollout=context.rollout + _REPEAT * repeat)
        self.request = request
        values = to_json(signature.inputs, inputs)
        self._place = self._recorder.start(ModuleCall(signature, values, request))

    def finish(self, reply: Reply) -> Any:
        seen: dict[str, Any] = {"completion": reply.completion, "cached": reply.cached}
        try:
            outputs = read_reply(self._signature, reply.completion.text)
            value = self._build(outputs)
            seen["outputs"] = to_json(self._signature.reply, outputs)
        finally:
            self._recorder.finish(self._place, **seen)
        return value

    def _build(self, outputs: Mapping[str, Any]) -> Any:
        try:
            names = [field.name for field in self._signature.outputs]
            return self._signature.build({name: outputs[name] for name in names if name in outputs})
        except REFUSALS as error:
            words = (
                error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
            )
            raise ParseError(f"module {self._signature.name!r}: {words}") from error


_REPEAT = 1_000_000


@overload
def module(function: Callable[P, R], /) -> Module[P, R]: ...
@overload
def module(
    *, reasoning: bool = False, output: str = "answer", name: str | None = None
) -> Callable[[Callable[P, R]], Module[P, R]]: ...
def module(
    function: Callable[P, R] | None = None,
    /,
    *,
    reasoning: bool = False,
    output: str = "answer",
    name: str | None = None,
) -> Module[P, R] | Callable[[Callable[P, R]], Module[P, R]]:
    """Make an LM call of a function: its signature is the prompt's contract, its docstring the instruction.

    ``reasoning`` lets the LM think in text before it answers; ``output`` names the answer in the prompt where
    the function returns one value; ``name`` tells apart two modules of a program that share a function name.
    Raises `ModuleDefinitionError` where the body holds code or an annotation is missing.
    """
    namespace = sys._getframe(1).f_locals  # annotations may name types defined beside a local function

    def decorate(function: Callable[P, R]) -> Module[P, R]:
        if not inspect.isfunction(function):
            raise ModuleDefinitionError(
                f"@module is for a function, not for {function!r}; write it above a def, and its arguments by name."
            )
        contract = signature_of(function, name=name, output=output, reasoning=reasoning, namespace=namespace)
        return Module(function, contract)

    return decorate if function is None else decorate(function)
