"""An episode (instruction, demos, query) and how the harness writes it as chat messages.

Each piece of text carries the part it plays, from which training takes its loss weights: ``CONTEXT`` is what the model
only reads, ``FORM`` the field names and the end of an answer, ``VALUE`` what an answer says, ``FINAL`` the value of its
last field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SYSTEM, USER, ASSISTANT, END, PAD = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
CONTEXT, FORM, VALUE, FINAL = range(4)

Value = str | int | float | tuple[str, ...]


class Piece(NamedTuple):
    """A stretch of text and the part it plays."""

    text: str
    part: int


@dataclass(frozen=True)
class Turn:
    """One input/output pair."""

    inputs: tuple[tuple[str, Value], ...]
    outputs: tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Episode:
    """A task as the harness prompts it: what to do, what to reply, and the worked examples in order."""

    kind: str
    instruction: str
    reply: tuple[tuple[str, str], ...]
    turns: tuple[Turn, ...]
    given: tuple[tuple[str, str], ...] = ()


def system_text(episode: Episode) -> str:
    """The system message: instruction, descriptions of inputs if there are any, and the fields to reply with."""
    blocks = [episode.instruction]
    if episode.given:
        blocks.append("Given:\n" + "\n".join(f"{name}: {text}" for name, text in episode.given))
    blocks.append("Reply with:\n" + "\n".join(f"{name}: {hint}" for name, hint in episode.reply))
    return "\n\n".join(blocks)


def field_text(name: str, value: Value) -> str:
    """One field as a line, a list as one line per item."""
    if isinstance(value, tuple):
        return f"{name}:" + ("".join(f"\n- {item}" for item in value) if value else " []")
    return f"{name}: {value}"


def fields_text(fields: Sequence[tuple[str, Value]]) -> str:
    """Fields as the lines of a user or assistant message."""
    return "\n".join(field_text(name, value) for name, value in fields)


def options_hint(options: Sequence[str]) -> str:
    """The hint of an output that must be one of several words."""
    return "one of " + ", ".join(options)


def pieces(episode: Episode) -> list[Piece]:
    """The whole chat in order; every boundary is also a boundary between tokens."""
    found = [Piece(SYSTEM + system_text(episode) + END, CONTEXT)]
    for turn in episode.turns:
        found.append(Piece(USER + fields_text(turn.inputs) + END + ASSISTANT, CONTEXT))
        for index, (name, value) in enumerate(turn.outputs):
            line = field_text(name, value)
            head = len(name) + (1 if isinstance(value, tuple) and value else 2)
            last = index == len(turn.outputs) - 1
            found.append(Piece(("\n" if index else "") + line[:head], FORM))
            found.append(Piece(line[head:], FINAL if last else VALUE))
        found.append(Piece(END, FORM))
    return found


def messages(episode: Episode) -> list[dict[str, str]]:
    """The episode as chat messages, the last answer included."""
    chat = [{"role": "system", "content": system_text(episode)}]
    for turn in episode.turns:
        chat.append({"role": "user", "content": fields_text(turn.inputs)})
        chat.append({"role": "assistant", "content": fields_text(turn.outputs)})
    return chat
