"""Progress of the steps under way: live on a terminal, a line per finished step elsewhere."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Protocol, Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from harness.observe import NullObserver, Observer
from harness.report.format import count, duration
from harness.report.safe import one_line

__all__ = ["LiveProgress", "NullProgress", "PlainProgress", "Progress", "progress_for"]

REDRAWS = 5
"""A second. Calls only add to counters; a thread of its own draws them."""

BAR_FROM = 100
"""Columns from which there is room for a bar beside the figures."""

WINDOW = 30.0
"""Seconds of the past that the time left is reckoned from: an early burst of cached calls tells nothing."""


class Progress(Observer, Protocol):
    """An observer that is shown while its ``with`` block runs, however that ends."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...


@dataclass
class _Task:
    total: int | None
    unit: str
    began: float
    done: int = 0
    cached: int = 0
    tokens: int = 0
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def left(self, now: float) -> float | None:
        """Seconds that remain at the pace of the last `WINDOW`; None while that is unknown."""
        self.seen.append((now, self.done))
        while len(self.seen) > 2 and now - self.seen[1][0] > WINDOW:
            self.seen.popleft()
        then, before = self.seen[0]
        if self.total is None or not before < self.done < self.total or now <= then:
            return None
        return (self.total - self.done) * (now - then) / (self.done - before)

    def words(self, *times: str) -> str:
        """``735 of 800 calls, 1m 32s, 8s left, 120 cached, 45,000 tokens``: cut off at its end, it still serves."""
        total = "" if self.total is None or self.total == self.done else f" of {self.total:,}"
        unit = self.unit.removesuffix("s") if self.done == 1 and not total else self.unit
        parts = [f"{self.done:,}{total} {unit}", *times]
        parts += [f"{self.cached:,} cached"] if self.cached else []
        parts += [f"{count(self.tokens)} tokens"] if self.tokens else []
        return ", ".join(parts)


class _Counting:
    """The counters of the tasks under way. All methods are safe from any thread, and take about a microsecond."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}

    def started(self, task: str, total: int | None = None, unit: str = "calls") -> None:
        """See `Observer`. A task of the same name that is still under way starts anew."""
        with self._lock:
            self._tasks[task] = _Task(total, one_line(unit), self._clock())

    def advanced(self, task: str, done: int = 1, cached: int = 0, tokens: int = 0) -> None:
        """See `Observer`. A task that was never started, or is finished already, is let pass."""
        with self._lock:
            if (found := self._tasks.get(task)) is not None:
                found.done += done
                found.cached += cached
                found.tokens += tokens

    def _end(self, task: str, note: str) -> str | None:
        """The line of a finished task, or None where it was not under way."""
        with self._lock:
            found = self._tasks.pop(task, None)
        if found is None:
            return None
        line = f"{one_line(task)}: {found.words(duration(self._clock() - found.began))}"
        return f"{line} – {one_line(note)}" if note else line


class NullProgress(NullObserver):
    """Shows nothing: for ``-q`` and for worker processes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Nothing."""


class PlainProgress(_Counting):
    """One line per finished step, for logs, pipes and dumb terminals.

    ``write`` is given each line without its line feed; it is called by one thread at a time.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._write = write
        self._writing = threading.Lock()

    def finished(self, task: str, note: str = "") -> None:
        """Write the task's line."""
        line = self._end(task, note)
        if line is not None:
            with self._writing:
                self._write(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Nothing to undo."""


class LiveProgress(_Counting):
    """The steps under way, redrawn in place; each finished one leaves a line above.

    Drawn only inside the ``with`` block, which erases what is drawn and gives the cursor back however it ends,
    also by KeyboardInterrupt. A line that pytest has begun is left alone: the drawing starts on the next one.
    ``console`` must write past pytest's capture (`progress_for` makes such a one). Blocks may follow one another,
    not nest.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self._live: Live | None = None
        self._spinner = Spinner("dots")

    def finished(self, task: str, note: str = "") -> None:
        """Write the task's line above those still under way."""
        line = self._end(task, note)
        if line is not None:
            with suppress(OSError):
                self._console.print(Text(line, style="dim"), soft_wrap=True)

    def __enter__(self) -> Self:
        # A line's width of blanks: begun in the middle of a line they run over to the next one, begun at its start
        # they do not, since terminals wrap only when something follows. The return then goes to a free line.
        with suppress(OSError):
            self._console.file.write(" " * self._console.width + "\r")
            self._console.file.flush()
        # Both streams stay as they are: pytest has its own hands on them.
        self._live = Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=REDRAWS,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        with self._lock:
            self._tasks.clear()

    def _draw(self) -> Table:
        now = self._clock()
        grid = Table.grid(padding=(0, 2, 0, 0))
        with self._lock:
            rows = [(name, task.done, task.total, _live_words(task, now)) for name, task in self._tasks.items()]
        for name, done, total, words in rows:
            cells: list[RenderableType] = [self._spinner, _cell(one_line(name))]
            if self._console.width >= BAR_FROM:
                cells.append(ProgressBar(total=total, completed=done, width=20, pulse=total is None))
            grid.add_row(*cells, _cell(words, style="dim"))
        return grid


def _live_words(task: _Task, now: float) -> str:
    left = task.left(now)
    return task.words(duration(now - task.began), *([] if left is None else [f"{duration(left)} left"]))


def _cell(text: str, style: str = "") -> Text:
    return Text(text, style=style, overflow="ellipsis", no_wrap=True)


def progress_for(stream: TextIO, *, quiet: bool = False, plain: bool = False) -> Progress:
    """The progress that suits ``stream``: none where ``quiet``, live on a terminal unless ``plain``, else plain lines.

    Call it while ``stream`` is the real standard output, in ``pytest_configure`` for one: the file descriptor is
    duplicated, so that what is drawn later reaches the terminal although pytest captures descriptor 1 by then.
    A stream without a descriptor is written to as it is. Terminals that call themselves dumb get plain lines.
    Output that breaks off, a closed pipe or a lost terminal, ends the showing and not the run.
    """
    if quiet:
        return NullProgress()
    own = _duplicate(stream)
    if not plain and stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown", ""):
        return LiveProgress(_Terminal(file=own, force_terminal=True, markup=False, emoji=False, highlight=False))

    def write(line: str) -> None:
        try:
            own.write(f"{line}\n")
            own.flush()
        except OSError:
            _discard(own)

    return PlainProgress(write)


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """Show nothing more, where rich would end the process."""
        self.quiet = True
        _discard(self.file)


def _discard(own: IO[str]) -> None:
    """Let what could not be written go nowhere: Python 3.13 complains of it once more when the stream is collected."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, own.fileno())
        finally:
            os.close(nowhere)


def _duplicate(stream: TextIO) -> TextIO:
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError):  # an in-memory stream, or one that is closed
        return stream
    # What the terminal cannot show becomes "?". The descriptor is closed when the stream is collected: nobody
    # has to, and no ResourceWarning comes up.
    own = open(  # noqa: SIM115
        descriptor, "w", encoding=stream.encoding, errors="replace", buffering=1, closefd=False
    )
    weakref.finalize(own, os.close, descriptor)
    return own
