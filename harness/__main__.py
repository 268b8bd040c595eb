"""``python -m harness``: show a tuned program, or export it for a server."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with the error's message on stderr."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "show":
            from harness.report.tuned_view import show

            show(given.tuned)
        else:
            from harness.export import export

            for path in export(given.tuned, given.to, merge=given.merge):
                print(path)
    except HarnessError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness", description="Look at and ship tuned LM programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print a tuned program: its LM, scores, instructions and demos")
    export = commands.add_parser("export", help="write adapter, prompts and a README with the vLLM command")
    for command in (show, export):
        command.add_argument("tuned", type=Path, metavar="TUNED", help="the file that --bt-save wrote")
    export.add_argument("--to", type=Path, metavar="DIR", required=True, help="the folder to write")
    export.add_argument(
        "--merge", action="store_true", help="write the base model with the adapter merged in, for local/... LMs"
    )
    return parser


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a console or a pipe on Windows cannot show becomes "?"
    sys.exit(main())
