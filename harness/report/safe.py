"""Text of others (LM output, names, error messages) made harmless for a terminal: it is data, never control."""

from __future__ import annotations

import re

__all__ = ["one_line", "plain", "shorten"]

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement, erasing
    r"|(?:\x1b[P\]X^_]|[\x90\x9d\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC and the other strings
    r"|\x1b[ -/]*[0-~]"  # two-character escapes
)
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls, all but the line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional overrides: they reorder what is around them
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # line separators, byte order mark, interlinear annotation
    "\U000e0000-\U000e0fff]"  # invisible tags
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def plain(text: str) -> str:
    """``text`` without anything that a terminal obeys; line feeds stay, tabs become four blanks.

    ANSI sequences, control characters and bidirectional overrides are dropped, halves of surrogate pairs, which
    cannot be encoded, become U+FFFD. ``plain(plain(text)) == plain(text)``. Square brackets stay: rich markup
    is switched off by showing the text as `rich.text.Text`, not by changing it.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    return _SURROGATE.sub("\ufffd", _UNSAFE.sub("", _SEQUENCE.sub("", text)))


def one_line(text: str) -> str:
    """`plain` on a single line: runs of white space become one blank."""
    return " ".join(plain(text).split())


def shorten(text: str, characters: int, lines: int) -> str:
    """`plain`, cut to so many characters and lines, with a word on what is left out."""
    text = plain(text).strip("\n")
    cut = "\n".join(text.split("\n")[:lines])[:characters].rstrip()
    left = len(text) - len(cut)
    return cut if left <= 0 else f"{cut} … ({left:,} more characters)"
