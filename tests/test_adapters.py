"""Adapters on disk: named by their content, complete or not there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.errors import AdapterError
from harness.train.adapters import CONFIG_FILE, WEIGHTS_FILE, Adapters

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
    "base_model_name_or_path": "local/nano",
}


def safetensors(values: bytes) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    return len(header).to_bytes(8, "little") + header + values


def saved(folder: Path, values: bytes = b"weights", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(safetensors(values))
    (folder / CONFIG_FILE).write_text(json.dumps({**CONFIG, **changes}))
    return folder


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path / "adapters")


def fresh(adapters: Adapters) -> Adapters:
    """The same folder as another process sees it."""
    return Adapters(adapters.folder)


def test_an_adopted_adapter_is_found_by_its_digest(adapters: Adapters, tmp_path: Path) -> None:
    digest = adapters.adopt(saved(tmp_path / "a"))
    assert len(digest) == 32
    assert adapters.has(digest)
    folder = fresh(adapters).path(digest)
    assert folder == adapters.folder / digest
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    assert [path.name for path in adapters.folder.iterdir()] == [digest]


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_only_the_owner_can_read(adapters: Adapters, tmp_path: Path) -> None:
    folder = adapters.path(adapters.adopt(saved(tmp_path / "a")))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(adapters.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_the_digest_is_that_of_the_computation(adapters: Adapters, tmp_path: Path) -> None:
    digest = adapters.adopt(saved(tmp_path / "a"))
    same = [
        saved(tmp_path / "order", target_modules=["v_proj", "q_proj"]),
        saved(tmp_path / "place", base_model_name_or_path="/models/base", revision="main"),
        saved(tmp_path / "new", peft_version="99", use_something=False, inference_mode=False, rank_pattern={}),
    ]
    assert {adapters.adopt(folder) for folder in same} == {digest}
    other = [
        saved(tmp_path / "b", b"weightz"),
        saved(tmp_path / "c", lora_alpha=16),
        saved(tmp_path / "d", target_modules=["q_proj"]),
        saved(tmp_path / "e", use_rslora=True),
    ]
    assert len({digest, *(adapters.adopt(folder) for folder in other)}) == 5


def test_adopting_twice_keeps_the_first(adapters: Adapters, tmp_path: Path) -> None:
    folder = adapters.path(adapters.adopt(saved(tmp_path / "a")))
    before = (folder / WEIGHTS_FILE).stat().st_ino
    adapters.adopt(saved(tmp_path / "a"))
    assert (folder / WEIGHTS_FILE).stat().st_ino == before
    assert len(list(adapters.folder.iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncated", "changed", "config", "no weights", "empty", "header"])
def test_damage_is_named(adapters: Adapters, tmp_path: Path, damage: str) -> None:
    digest = adapters.adopt(saved(tmp_path / "a"))
    weights, config = adapters.folder / digest / WEIGHTS_FILE, adapters.folder / digest / CONFIG_FILE
    match damage:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-2])
        case "changed":
            weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        case "config":
            config.write_text("{")
        case "no weights":
            weights.unlink()
        case "empty":
            weights.write_bytes(b"")
        case "header":
            weights.write_bytes(b"\xff" * 64)
    with pytest.raises(AdapterError, match="adapter_") as raised:
        fresh(adapters).path(digest)
    assert str(adapters.folder) in str(raised.value)
    assert "run the optimization again" in str(raised.value)
    # Training it again repairs it.
    assert adapters.adopt(saved(tmp_path / "a")) == digest
    assert fresh(adapters).path(digest).is_dir()


def test_content_is_verified_once_per_process(adapters: Adapters, tmp_path: Path) -> None:
    digest = adapters.adopt(saved(tmp_path / "a"))
    later = fresh(adapters)
    later.path(digest)
    (adapters.folder / digest / WEIGHTS_FILE).write_bytes(b"")
    later.path(digest)


def test_a_missing_adapter_has_a_remedy(adapters: Adapters) -> None:
    assert not adapters.has("0" * 32)
    with pytest.raises(AdapterError, match=r"There is no adapter 0000.*run the optimization again"):
        adapters.path("0" * 32)


@pytest.mark.parametrize("digest", ["../../etc", "", "a" * 31, "G" * 32, "/" * 32])
def test_a_digest_is_no_path(adapters: Adapters, digest: str) -> None:
    with pytest.raises(AdapterError, match="is no adapter"):
        adapters.path(digest)


@pytest.mark.parametrize(
    "changes", [{"peft_type": "IA3"}, {"megatron_config": {"a": 1}}, {"layer_replication": [[0, 1]]}]
)
def test_only_plain_lora_is_taken(adapters: Adapters, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match="LoRA"):
        adapters.adopt(saved(tmp_path / "a", **changes))


def test_an_adapter_travels(adapters: Adapters, tmp_path: Path) -> None:
    digest = adapters.adopt(saved(tmp_path / "a"))
    adapters.export(digest, tmp_path / "ship" / "iris.adapter")
    adapters.export(digest, tmp_path / "ship" / "iris.adapter")
    assert len(list((tmp_path / "ship" / "iris.adapter").iterdir())) == 2
    elsewhere = Adapters(tmp_path / "elsewhere")
    elsewhere.import_(tmp_path / "ship" / "iris.adapter", digest)
    assert elsewhere.path(digest).is_dir()


def test_a_shipped_adapter_must_be_the_one_expected(adapters: Adapters, tmp_path: Path) -> None:
    digest = adapters.adopt(saved(tmp_path / "a"))
    with pytest.raises(AdapterError, match=f"{digest} was expected"):
        Adapters(tmp_path / "elsewhere").import_(saved(tmp_path / "b", b"other"), digest)
    assert not (tmp_path / "elsewhere").exists()


def test_leftovers_of_killed_processes_are_removed(adapters: Adapters, tmp_path: Path) -> None:
    adapters.adopt(saved(tmp_path / "a"))
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    host = Adapters.__module__  # any text that is not this host's name
    names = {
        "dead": f".tmp-{_this_host()}-{int(dead.stdout)}-aa",
        "alive": f".tmp-{_this_host()}-{os.getpid()}-bb",
        "other host": f".tmp-{host}-1-cc",
        "old": f".tmp-{host}-1-dd",
    }
    for name in names.values():
        (adapters.folder / name).mkdir()
        (adapters.folder / name / WEIGHTS_FILE).write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(adapters.folder / names["old"], (long_ago, long_ago))
    fresh(adapters).adopt(saved(tmp_path / "b", b"other"))
    left = {path.name for path in adapters.folder.glob(".tmp-*")}
    assert left == {names["alive"], names["other host"]}


def _this_host() -> str:
    from harness.train import adapters as module

    return module._host()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir(mode=0o500)
    with pytest.raises(AdapterError, match="make the folder writable"):
        Adapters(tmp_path / "adapters").adopt(saved(tmp_path / "a"))


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapters").write_text("")
    with pytest.raises(AdapterError, match="cannot be written"):
        Adapters(tmp_path / "adapters").adopt(saved(tmp_path / "a"))
