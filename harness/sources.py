"""Where a suite's data is: files in the folder of ``--bt-data-dir``, or a data set of the Hugging Face hub.

A folder that was given is the only place looked in, so that a run never mixes what lies there with what the hub
has; without one the hub's data set is used, at a pinned revision.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError, DataMissingError

__all__ = ["HubData", "data_dir", "find_file", "read_rows", "rows", "use_data_dir"]

_chosen: Path | None = None


def data_dir() -> Path | None:
    """The folder with data files: that of ``--bt-data-dir``, else of ``BT_DATA_DIR``; None where neither is set."""
    if _chosen is not None:
        return _chosen
    named = os.environ.get("BT_DATA_DIR")
    return Path(named).expanduser() if named else None


def use_data_dir(folder: Path | None) -> None:
    """Make ``folder`` the one of `data_dir` in this process; None goes back to ``BT_DATA_DIR``."""
    global _chosen
    _chosen = folder


@dataclass(frozen=True, slots=True)
class HubData:
    """One split of a data set of the Hugging Face hub at one commit, so that scores stay comparable.

    ``file`` is the name, without its ending, of the file in the data folder that holds the same rows.
    """

    repository: str
    config: str
    split: str
    revision: str
    file: str

    def load(self) -> Iterable[Mapping[str, Any]]:
        """Download the split, or take it from the hub's cache. Raises `DataMissingError` where neither works."""
        from datasets import load_dataset

        try:
            found: Iterable[Mapping[str, Any]] = load_dataset(
                self.repository, self.config, split=self.split, revision=self.revision
            )
        except Exception as error:  # hub, HTTP client and cache each have errors of their own
            raise DataMissingError(
                f"{self.repository} ({self.config}, {self.split}) cannot be had from the Hugging Face hub "
                f"({type(error).__name__}: {_short(error)}). Let this machine reach https://huggingface.co once, or "
                f"give the folder that holds {self.file}.jsonl or .jsonl.gz with --bt-data-dir=DIR or BT_DATA_DIR."
            ) from error
        return found


def find_file(name: str) -> Path | None:
    """``NAME.jsonl`` or ``NAME.jsonl.gz`` in the data folder; None where no data folder is set.

    Raises `DataMissingError` where the folder does not hold the file.
    """
    folder = data_dir()
    if folder is None:
        return None
    for ending in (".jsonl", ".jsonl.gz"):
        path = folder / (name + ending)
        if path.is_file():
            return path
    raise DataMissingError(
        f"{folder} holds neither {name}.jsonl nor {name}.jsonl.gz; put the file there, or leave out --bt-data-dir "
        "and BT_DATA_DIR to use the Hugging Face hub."
    )


def rows(hub: HubData, fields: Sequence[str] = ()) -> Iterable[Mapping[str, Any]]:
    """The rows of the file in the data folder where one is set, else those of the hub's data set.

    Raises `DataMissingError` saying how to get them, and what `read_rows` raises.
    """
    path = find_file(hub.file)
    return hub.load() if path is None else read_rows(path, fields)


def read_rows(path: str | os.PathLike[str], fields: Sequence[str] = ()) -> Sequence[dict[str, Any]]:
    """The rows of a ``.jsonl`` or ``.jsonl.gz`` file (UTF-8, an object a line; blank lines do not count).

    Raises `DataError` naming the line that is none or lacks one of ``fields``, `DataMissingError` where there is no
    file.
    """
    path = Path(path)
    opened = gzip.open if path.suffix == ".gz" else open
    found: list[dict[str, Any]] = []
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number}: {type(row).__name__} is no row; write objects only.")
                if lacking := [field for field in fields if field not in row]:
                    raise DataError(
                        f"{path}, line {number}: there is no field {lacking[0]!r}, only {', '.join(row) or 'nothing'}; "
                        f"every row needs {', '.join(fields)}."
                    )
                found.append(row)
    except FileNotFoundError as error:
        raise DataMissingError(f"there is no file {path}; put it there or name another folder.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 ({_short(error)}); save it in UTF-8.") from error
    except (ValueError, RecursionError) as error:
        why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else _short(error)
        raise DataError(
            f"{path}, line {number}: {why}. Write one JSON object a line, or get the file again."
        ) from error
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Name a file that can be.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}, after line {number}: {_short(error)}. The file is damaged; get it again.") from error
    return found


def _short(error: Exception, limit: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
