"""What a process shares, and what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.runtime import Runtime

ENDS = {
    "exit": "",
    # A child that the process forked ends before it does.
    "fork": "import os\nif os.fork() == 0: sys.exit()\nos.wait()\nassert runtime.adapters.folder.is_dir()",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_without_a_store_leaves_nothing_behind(tmp_path: Path, end: str) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom harness.context import default_runtime\n"
        "from tests.simulated import write_adapter\n"
        "runtime = default_runtime()\n"
        "made = Path(sys.argv[1]); made.mkdir(); write_adapter(made, 'w')\n"
        "runtime.adapters.adopt(made)\n"
        f"{ENDS[end]}\n"
    )
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "made")],
        env={"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(Path(__file__).parent.parent), "BT_LM": "sim/plain"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_closing_removes_the_temporary_folder_and_no_other(tmp_path: Path) -> None:
    with Runtime.open(None) as runtime:
        folder = runtime.adapters.folder
        assert folder.is_dir()
    assert not folder.exists()
    with Runtime.open(tmp_path) as runtime:
        runtime.adapters.folder.mkdir()
    assert runtime.adapters.folder.is_dir()
