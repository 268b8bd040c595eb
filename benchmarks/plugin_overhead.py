"""What the plugin costs a pytest run that has no suite: ``python benchmarks/plugin_overhead.py [RUNS]``.

Runs one empty test with and without the plugin in turn and prints the medians in milliseconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(folder: Path, *options: str) -> float:
    """Wall time of one run; other plugins are left out, since their noise is larger than what is measured."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    begin = time.perf_counter()
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - begin


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_empty.py").write_text("def test_empty(): pass\n")
        times: dict[str, list[float]] = {"without": [], "with": []}
        for run in range(runs + 1):
            for key, options in (("without", ()), ("with", ("-p", "harness.plugin"))):
                taken = seconds(folder, *options)
                if run:  # the first pair writes byte code
                    times[key].append(taken)
    without, with_plugin = (statistics.median(times[key]) * 1000 for key in ("without", "with"))
    difference = with_plugin - without
    print(f"without {without:.0f} ms, with {with_plugin:.0f} ms, difference {difference:+.0f} ms ({runs} runs)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
