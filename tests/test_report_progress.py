"""Progress: plain lines, the live display on a pseudo-terminal, threads, broken output."""

from __future__ import annotations

import io
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from harness.observe import NullObserver, Observer
from harness.report.progress import LiveProgress, NullProgress, PlainProgress, Progress, progress_for

ROOT = Path(__file__).parent.parent
CURSOR_OFF, CURSOR_ON, ERASE_LINE = "\x1b[?25l", "\x1b[?25h", "\x1b[2K"


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_per_finished_step() -> None:
    clock, lines = Clock(), list[str]()
    progress = PlainProgress(lines.append, clock)
    with progress:
        progress.started("test_iris p: bootstrapping", 80)
        progress.started("test_iris w: training", None, "steps")
        for index in range(80):
            progress.advanced("test_iris p: bootstrapping", cached=int(index < 20), tokens=120)
        progress.advanced("test_iris w: training", 7)
        clock.now = 92.4
        assert lines == []
        progress.finished("test_iris p: bootstrapping", "kept 31 of 80 traces")
        progress.finished("test_iris w: training")
    assert lines == [
        "test_iris p: bootstrapping: 80 calls, 1m 32s, 20 cached, 9,600 tokens – kept 31 of 80 traces",
        "test_iris w: training: 7 steps, 1m 32s",
    ]


def test_a_step_that_stops_early_says_how_far_it_came() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append, Clock())
    progress.started("t", 80)
    progress.advanced("t", 3)
    progress.finished("t", "no trace passed")
    assert lines == ["t: 3 of 80 calls, 0.0s – no trace passed"]


def test_calls_out_of_turn_are_let_pass() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append)
    progress.advanced("never started")
    progress.finished("never started")
    progress.started("t")
    progress.finished("t")
    progress.finished("t")
    progress.advanced("t")
    assert len(lines) == 1


def test_names_and_notes_steer_nothing() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append, Clock())
    progress.started("\x1b[31mred[bold]\n")
    progress.finished("\x1b[31mred[bold]\n", "a\r\nb\x07")
    assert lines == ["red[bold]: 0 calls, 0.0s – a b"]


@pytest.mark.parametrize("kind", ["plain", "live"])
def test_no_count_is_lost_among_threads(kind: str) -> None:
    lines: list[str] = []
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress: Progress = PlainProgress(lines.append) if kind == "plain" else LiveProgress(console)

    def work() -> None:
        for _ in range(2_000):
            progress.advanced("t", cached=1, tokens=2)

    with progress:
        progress.started("t", 16_000)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        progress.finished("t")
    assert isinstance(console.file, io.StringIO)
    shown = (lines or [console.file.getvalue()])[0]
    assert re.search(r"t: 16,000 calls, [\d.]+s, 16,000 cached, 32,000 tokens", shown)


def test_drawing_does_not_follow_every_call() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress = LiveProgress(console)
    began = time.perf_counter()
    with progress:
        progress.started("t")
        for _ in range(50_000):
            progress.advanced("t", tokens=1)
    seconds = time.perf_counter() - began
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count(ERASE_LINE) < 20 * (seconds + 1)


def drawn(progress: LiveProgress) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(progress._draw())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_time_left_follows_the_recent_pace() -> None:
    clock = Clock()
    progress = LiveProgress(Console(file=io.StringIO()), clock)
    progress.started("p: search", 1_000)
    assert "left" not in drawn(progress)
    progress.advanced("p: search", 500, cached=500)  # a burst from the store
    for second in range(1, 61):
        clock.now = second
        progress.advanced("p: search", 1, tokens=10)
        text = drawn(progress)
    assert "p: search" in text
    assert "560 of 1,000 calls, 1m 00s, 7m 20s left, 500 cached, 600 tokens" in text
    progress.advanced("p: search", 440)
    assert "left" not in drawn(progress)


def test_observers_fit_the_protocols() -> None:
    observers: list[Observer] = [NullObserver(), PlainProgress(print), LiveProgress(Console(file=io.StringIO()))]
    with NullProgress() as nothing:
        observers.append(nothing)
    for observer in observers[:1]:
        observer.started("t")
        observer.advanced("t")
        observer.finished("t")


# ---- which progress a stream gets


def test_quiet_shows_nothing_and_a_pipe_gets_lines(tmp_path: Path) -> None:
    assert isinstance(progress_for(sys.stderr, quiet=True), NullProgress)
    path = tmp_path / "log"
    with path.open("w", encoding="ascii") as stream:
        progress = progress_for(stream)
        assert isinstance(progress, PlainProgress)
    with progress:  # its own descriptor: the stream may be closed or redirected by now
        progress.started("p → w")
        progress.finished("p → w")
    assert re.fullmatch(r"p \? w: 0 calls, 0\.0s\n", path.read_text(encoding="ascii"))


def test_a_stream_without_descriptor_is_written_to() -> None:
    stream = io.StringIO()
    progress = progress_for(stream)
    progress.started("t")
    progress.finished("t")
    assert stream.getvalue() == "t: 0 calls, 0.0s\n"


def test_a_broken_pipe_does_not_end_the_run() -> None:
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123
        progress = progress_for(stream)
        os.close(reader)
        progress.started("t")
        progress.finished("t")


def test_a_broken_pipe_is_nothing_to_complain_of_later() -> None:
    code = (
        "import os\n"
        "from harness.report.progress import progress_for\n"
        "reader, writer = os.pipe()\n"
        "progress = progress_for(os.fdopen(writer, 'w', closefd=False))\n"
        "os.close(reader)\n"
        "progress.started('t')\n"
        "progress.finished('t')\n"
        "del progress\n"
    )
    # As Python 3.13 does without being asked, errors of streams that are collected are shown.
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


SCRIPT = """
import signal, sys, time
from harness.report.progress import progress_for
signal.signal(signal.SIGINT, signal.default_int_handler)
print("before")
print("suites/test_iris.py .", end="", flush=True)
try:
    with progress_for(sys.stdout) as progress:
        progress.started("test_iris p: bootstrapping", 80)
        progress.started("test_iris w: training", None, "steps")
        progress.advanced("test_iris w: training")
        progress.finished("test_iris w: training", "done")
        progress.advanced("test_iris p: bootstrapping", 20, 5, 1000)
        time.sleep(float(sys.argv[1]))
        raise SystemExit
except KeyboardInterrupt:
    print("interrupted")
print("after")
"""


@contextmanager
def terminal(seconds: float, term: str = "xterm-256color") -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The script on a pseudo-terminal of 80 columns, and the terminal's other side."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "80", "LINES": "24", "PYTHONPATH": str(ROOT)}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(seconds)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read(descriptor: int, until: str | None = None) -> str:
    found = b""
    while until is None or until not in found.decode(errors="ignore"):
        assert select.select([descriptor], [], [], 60)[0], f"nothing more was written after {found!r}"
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:  # Linux: the other side is closed
            break
        if not chunk:
            break
        found += chunk
    return found.decode()


def screen(output: str, width: int = 80) -> list[str]:
    """What stays on the screen: a terminal that knows line feed, return, cursor up, erase line and wrapping."""
    lines, at, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[^\x1b]", output):
        if token == "\r":
            column = 0
        elif token == ERASE_LINE:
            lines[at] = ""
        elif token.startswith("\x1b"):
            at -= int(token[2:-1] or 1) if token.endswith("A") else 0
        else:
            if token == "\n" or column == width:
                at, column = at + 1, 0
                lines += [""] if at == len(lines) else []
            if token != "\n":
                lines[at] = lines[at][:column].ljust(column) + token + lines[at][column + 1 :]
                column += 1
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_interrupting_leaves_the_terminal_clean() -> None:
    with terminal(3600) as (process, descriptor):
        output = read(descriptor, "20 of 80 calls")
        process.send_signal(signal.SIGINT)
        output += read(descriptor)
    assert output.rindex(CURSOR_ON) > output.rindex(CURSOR_OFF)
    left = screen(output)
    assert left[:2] == ["before", "suites/test_iris.py ."]
    assert re.fullmatch(r"test_iris w: training: 1 step, \d\.\ds – done", left[2])
    assert left[3:] == ["interrupted", "after"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_dumb_terminal_gets_plain_lines() -> None:
    with terminal(0, term="dumb") as (_, descriptor):
        output = read(descriptor)
    assert "\x1b" not in output
    assert "test_iris w: training: 1 step" in output


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("color", ["no", "auto"])
def test_without_color_nothing_steers_the_terminal(project: pytest.Pytester, color: str) -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", f"--color={color}", "--bt-lm=sim/plain"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=project.path):
        os.close(theirs)
        output = read(ours)
        os.close(ours)
    assert "parity: test: 25 runs" in output
    assert ("\x1b" in output) == (color == "auto")
