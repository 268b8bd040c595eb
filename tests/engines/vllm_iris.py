"""`p -> w -> p` on Iris through a running vLLM server and in one process, side by side.

``python tests/engines/vllm_iris.py BASE_URL NAME FOLDER``: the server at BASE_URL serves the model in FOLDER as
NAME, with adapters loaded at run time. Prints how long each switch of adapters took and the scores of both runs;
exits with 1 where a switch takes a second or more, or where the scores differ by more than their 95 % intervals and
the spread over three seeds allow.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
STRATEGIES = "p -> w -> p"
SEEDS = "0,1,2"
LONGEST_SWITCH_MS = 1000


def project(folder: Path, base_url: str, name: str, weights: str) -> None:
    """Write a project of its own with the Iris suite and the server in its LM table."""
    for place, file in (("programs", "iris.py"), ("suites", "test_iris.py")):
        (folder / place).mkdir()
        shutil.copyfile(ROOT / place / file, folder / place / file)
    settings = {"base_url": base_url, "weights": weights}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (folder / "pyproject.toml").write_text(
        "\n".join(
            [f'[tool.bt-harness.lm."hosted_vllm/{name}"]', *lines, "[tool.pytest.ini_options]", "minversion = '8'\n"]
        )
    )
    (folder / "conftest.py").write_text("")


def run(folder: Path, model: str) -> dict[str, Any]:
    """One optimization; its strategies by name, and the seconds it took."""
    label = model.partition("/")[0]
    command = [sys.executable, "-m", "pytest", "-q", "suites", "--bt-optimize", "--bt-lm", model]
    command += [
        "--bt-strategies",
        STRATEGIES,
        "--bt-seeds",
        SEEDS,
        "--bt-store",
        f".bt-{label}",
        "--bt-json",
        f"{label}.json",
    ]
    command += ["-o", "pythonpath=.", "--log-file", f"{label}.log", "--log-file-level", "INFO"]
    began = time.perf_counter()
    ran = subprocess.run(command, cwd=folder, check=False, stdout=subprocess.PIPE, text=True)
    if not (folder / f"{label}.json").is_file():
        raise SystemExit(f"{ran.stdout}\nthe run with {model} made no report")
    (suite,) = json.loads((folder / f"{label}.json").read_text())["suites"]
    found = {strategy["strategy"]: strategy for strategy in suite["strategies"]}
    return {"strategies": found, "seconds": time.perf_counter() - began}


def switches(log: Path) -> list[int]:
    """Milliseconds that each load of an adapter took."""
    return [int(found) for found in re.findall(r"adapter \w+ loaded into .* in (\d+) ms", log.read_text())]


def main(base_url: str, name: str, weights: str) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        project(folder, base_url, name, weights)
        served, inside = run(folder, f"hosted_vllm/{name}"), run(folder, f"local/{weights}")
        loads = switches(folder / "hosted_vllm.log")
    failed = not loads or max(loads) >= LONGEST_SWITCH_MS
    print(f"switches: {', '.join(f'{ms} ms' for ms in loads) or 'none'}")
    for strategy, one in served["strategies"].items():
        left, right = one["test"], inside["strategies"][strategy]["test"]
        if left is None or right is None:
            print(f"{strategy}: no score")
            failed = True
            continue
        apart = left["low"] > right["high"] or right["low"] > left["high"]
        # The seeds' own spread: another engine draws other samples, as another seed does.
        spread = 2 * math.sqrt((left["sd"] ** 2 + right["sd"] ** 2) / len(SEEDS.split(",")))
        failed = failed or (apart and abs(left["mean"] - right["mean"]) > spread)
        print(
            f"{strategy}: vLLM {100 * left['mean']:.1f} ± {100 * left['sd']:.1f} %, in one process "
            f"{100 * right['mean']:.1f} ± {100 * right['sd']:.1f} % (seeds {SEEDS})"
        )
    for label, found in (("vLLM", served), ("in one process", inside)):
        for result in found["strategies"][STRATEGIES]["results"]:
            for step in result["steps"]:
                print(f"  {label}, seed {result['seed']}, {step['step']}: {step['notes']}")
    print(f"seconds: {served['seconds']:.0f} through vLLM, {inside['seconds']:.0f} in one process")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
