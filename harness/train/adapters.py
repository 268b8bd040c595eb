"""LoRA weights on disk, each in a folder named after its content."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import AdapterError

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "Adapters", "is_digest"]

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

_DIGEST_LENGTH = 32
_STALE_SECONDS = 24 * 3600.0

# The fields of PEFT's LoraConfig that change what the weights compute. Everything else names a machine, a version
# or an initialization, and would make equal adapters look different.
_FIELDS = (
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
)
# These change the computation too, or import a module by name; plain LoRA needs none of them.
_REFUSED = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "megatron_config",
    "use_bdlora",
    "use_qalora",
)
_UNORDERED = ("exclude_modules", "modules_to_save", "target_modules", "target_parameters")


class Adapters:
    """Adapters under ``folder/<digest>/``: safetensors weights and their PEFT config, readable by the owner alone.

    A folder appears under its final name complete or not at all, so a process killed while writing leaves only a
    temporary folder, which a later `Adapters` removes. Any number of processes may share one folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: set[str] = set()
        self._lock = threading.Lock()
        self._swept = False

    def has(self, digest: str) -> bool:
        """Whether an adapter of this digest is here; its content is not looked at."""
        return (self.folder / _checked_name(digest)).is_dir()

    def path(self, digest: str) -> Path:
        """The folder of an adapter, its content verified once per process.

        Raises:
            AdapterError: it is missing, truncated or otherwise not what its digest says.
        """
        folder = self.folder / _checked_name(digest)
        with self._lock:
            if digest not in self._verified:
                self._verify(folder, digest)
                self._verified.add(digest)
        return folder

    def adopt(self, folder: Path) -> str:
        """Store the adapter that was saved into ``folder`` and return its digest; an equal one that is here stays.

        Raises:
            AdapterError: ``folder`` holds no complete LoRA adapter, or this place cannot be written.
        """
        weights, config = _read(folder)
        body = _config_bytes(config)
        digest = _digest(weights, config)
        target = self.folder / digest
        try:
            self._sweep()
            self._write(target, weights, body, digest)
        except OSError as error:
            raise AdapterError(
                f"The adapter {digest} cannot be written to {self.folder}: {error}. "
                "Free space there, or make the folder writable."
            ) from error
        with self._lock:
            self._verified.add(digest)
        return digest

    def import_(self, src: Path, digest: str) -> None:
        """Take over an adapter that was shipped as a folder, for example beside a tuned program.

        Raises:
            AdapterError: the folder's content is not ``digest``.
        """
        weights, config = _read(src)
        found = _digest(weights, config)
        if found != _checked_name(digest):
            raise AdapterError(
                f"The adapter in {src} is {found}, but {digest} was expected: its files were changed or are "
                "truncated. Copy the adapter again from where it was saved."
            )
        self.adopt(src)

    def export(self, digest: str, dest: Path) -> None:
        """Copy an adapter's two files into ``dest``, which is made where it does not exist.

        Raises:
            AdapterError: the adapter is missing or damaged, or ``dest`` cannot be written.
        """
        source = self.path(digest)
        try:
            dest.mkdir(parents=True, exist_ok=True)
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                partial = dest / f".{name}.{os.getpid()}-{secrets.token_hex(4)}"
                try:
                    shutil.copyfile(source / name, partial)
                    partial.replace(dest / name)
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            raise AdapterError(
                f"The adapter {digest} cannot be copied to {dest}: {error}. Make the folder writable."
            ) from error

    def _verify(self, folder: Path, digest: str) -> None:
        remedy = (
            f"Delete {folder} and run the optimization again to train it anew, or import it from where it was saved."
        )
        if not folder.is_dir():
            raise AdapterError(f"There is no adapter {digest} in {self.folder}. {remedy}")
        weights, config = _read(folder, remedy)
        found = _digest(weights, config)
        if found != digest:
            raise AdapterError(
                f"{folder / WEIGHTS_FILE} or its {CONFIG_FILE} is damaged: their content is {found}. {remedy}"
            )

    def _write(self, target: Path, weights: bytes, config: bytes, digest: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self.folder / f".tmp-{_host()}-{os.getpid()}-{secrets.token_hex(8)}"
        temporary.mkdir(mode=0o700)
        try:
            _write_synced(temporary / WEIGHTS_FILE, weights)
            _write_synced(temporary / CONFIG_FILE, config)
            _sync_folder(temporary)
            try:
                temporary.rename(target)
            except OSError:
                # A folder cannot be renamed onto one with content: an equal adapter is there, or a damaged one.
                if not target.is_dir():
                    raise
                try:
                    self._verify(target, digest)
                except AdapterError:
                    target.rename(temporary.with_name(f"{temporary.name}-damaged"))
                    temporary.rename(target)
            _sync_folder(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(temporary.with_name(f"{temporary.name}-damaged"), ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed processes left, once per process."""
        if self._swept or not self.folder.is_dir():
            return
        self._swept = True
        for leftover in self.folder.glob(".tmp-*"):
            if _is_abandoned(leftover):
                shutil.rmtree(leftover, ignore_errors=True)


def is_digest(adapter: str) -> bool:
    """Whether an `LMRef`'s adapter names weights that are kept here; a provider's own weights go by its name."""
    return len(adapter) == _DIGEST_LENGTH and all(letter in "0123456789abcdef" for letter in adapter)


def _checked_name(digest: str) -> str:
    # A digest comes from files people edit; as a path it must not lead elsewhere.
    if not is_digest(digest):
        raise AdapterError(f"{digest!r} is no adapter: a digest of {_DIGEST_LENGTH} hexadecimal digits was expected.")
    return digest


def _read(folder: Path, remedy: str = "Save the adapter again.") -> tuple[bytes, dict[str, Any]]:
    weights_file, config_file = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    try:
        weights = weights_file.read_bytes()
        text = config_file.read_bytes()
    except OSError as error:
        raise AdapterError(f"{error.filename or folder} cannot be read: {error.strerror}. {remedy}") from error
    try:
        config = json.loads(text)
    except ValueError as error:
        raise AdapterError(f"{config_file} is no JSON: {error}. {remedy}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{config_file} does not describe a LoRA adapter of PEFT. {remedy}")
    if unsupported := [name for name in _REFUSED if config.get(name)]:
        raise AdapterError(f"{config_file} asks for {', '.join(unsupported)}; only plain LoRA can be loaded.")
    if (problem := _safetensors_problem(weights)) is not None:
        raise AdapterError(f"{weights_file} is {problem}. {remedy}")
    return weights, config


def _safetensors_problem(data: bytes) -> str | None:
    """What is wrong with a safetensors file: 8 bytes header length, JSON header, tensors end to end.

    Format: https://github.com/huggingface/safetensors#format
    """
    if len(data) < 8:
        return "truncated"
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        return "truncated or no safetensors file"
    try:
        header = json.loads(data[8 : 8 + length])
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "no safetensors file"
    if not ends:
        return "empty: it holds no tensors"
    if 8 + length + max(ends) != len(data):
        return "truncated"
    return None


def _canonical(config: dict[str, Any]) -> dict[str, Any]:
    """The fields that matter; a value that means "not used" counts like a field that is absent."""
    kept: dict[str, Any] = {}
    for name in _FIELDS:
        value = config.get(name)
        if value is None or value is False or value in ([], {}):
            continue
        kept[name] = sorted(value) if name in _UNORDERED and isinstance(value, list) else value
    return kept


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _digest(weights: bytes, config: dict[str, Any]) -> str:
    hasher = hashlib.sha256(_json(_canonical(config)))
    hasher.update(b"\0")
    hasher.update(weights)
    return hasher.hexdigest()[:_DIGEST_LENGTH]


def _config_bytes(config: dict[str, Any]) -> bytes:
    kept = _canonical(config)
    kept["base_model_name_or_path"] = config.get("base_model_name_or_path")
    kept["inference_mode"] = True
    return json.dumps(kept, sort_keys=True, indent=2).encode() + b"\n"


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Not every system can open a folder for this; the files themselves are synced either way.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_abandoned(folder: Path) -> bool:
    parts = folder.name.split("-")
    # A process id means something on its own machine alone (the folder may be shared over a network), and on
    # Windows asking for a process by signal 0 would end it.
    if os.name == "posix" and len(parts) >= 4 and parts[1] == _host() and parts[2].isdigit():
        try:
            os.kill(int(parts[2]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
    try:
        return time.time() - folder.stat().st_mtime > _STALE_SECONDS
    except OSError:
        return False
