"""Retrieval for programs: a BM25 index on disk that threads share, or any callable in its place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from harness.errors import DataError, UsageError
from harness.sources import read_rows

__all__ = ["BM25", "Retriever", "cache_dir", "unique"]


class Retriever(Protocol):
    """What a program searches with: the index below, a ColBERT endpoint, or any function of this shape."""

    def __call__(self, query: str, k: int) -> list[str]:
        """The ``k`` best passages, best first, each as ``title | text``. Called from many threads at once."""
        ...


def unique(passages: Iterable[str]) -> list[str]:
    """The passages without repeats, each where it came first."""
    return list(dict.fromkeys(passages))


def cache_dir() -> Path:
    """Where indexes are kept: ``BT_CACHE_DIR``, else ``bt-harness`` in the user's cache folder."""
    named = os.environ.get("BT_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bt-harness"


class BM25:
    """BM25 (Robertson and Zaragoza 2009) over the passages of a corpus, by bm25s. See `BM25.open`.

    The index is memory-mapped: processes share one copy of it in memory, and nothing changes in use, so that any
    number of threads may search at once.
    """

    def __init__(self, folder: Path) -> None:
        """Open an index that `BM25.open` or `BM25.build` made."""
        bm25s = _bm25s()
        import numpy as np

        self._folder = folder
        self._index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        self._ends = np.load(folder / "ends.npy", mmap_mode="r")
        self._texts = np.memmap(folder / "passages.txt", dtype=np.uint8, mode="r")

    @classmethod
    def open(cls, corpus: str | os.PathLike[str], cache: Path | None = None) -> BM25:
        """The index of a ``.jsonl`` or ``.jsonl.gz`` corpus with the fields ``title`` and ``text``.

        It is built once, under the digest of the corpus file, in ``cache`` (`cache_dir` where None): a changed
        corpus gets an index of its own. Raises `DataError` for a row without these fields and where there is no
        file.
        """
        path = Path(corpus)
        return cls.open_named(_digest(path), lambda: _documents(path), cache)

    @classmethod
    def open_named(cls, name: str, load: Callable[[], Iterable[Mapping[str, Any]]], cache: Path | None = None) -> BM25:
        """The index of this name in ``cache``; where there is none yet, that of the documents that ``load`` gives."""
        folder = (cache or cache_dir()) / f"bm25-{_VERSION}-{name}"
        if not (folder / _DONE).is_file():
            cls.build(load(), folder)
        return cls(folder)

    @classmethod
    def build(cls, documents: Iterable[Mapping[str, Any]], folder: Path) -> None:
        """Index the documents into ``folder``, which appears when it is complete."""
        bm25s = _bm25s()
        import numpy as np

        passages = [_passage(document, f"document {number}") for number, document in enumerate(documents, 1)]
        if not passages:
            raise DataError("the corpus holds no documents; give a file with title and text in every row.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
        try:
            index = bm25s.BM25(k1=0.9, b=0.4)  # what Anserini, BEIR and most published baselines use
            tokens = bm25s.tokenize(passages, stopwords="en", show_progress=False)
            if not any(map(len, tokens.ids)):
                raise DataError(
                    "no document of the corpus has a word to search for, other than ones as common as 'the'; give "
                    "documents with text."
                )
            index.index(tokens, show_progress=False)
            index.save(made, show_progress=False)
            encoded = [passage.encode() for passage in passages]
            (made / "passages.txt").write_bytes(b"".join(encoded))
            np.save(made / "ends.npy", np.cumsum([len(passage) for passage in encoded], dtype=np.int64))
            (made / _DONE).write_text(json.dumps({"documents": len(passages)}))
            try:
                made.rename(folder)
            except OSError:
                if not (folder / _DONE).is_file():
                    raise  # else another process was faster: its index is the same
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self._ends)

    def __call__(self, query: str, k: int) -> list[str]:
        """See `Retriever`. Passages that share no word with the query are never found; ties go to the earlier one."""
        return [self._passage(place) for place in self.search(query, k)]

    def search(self, query: str, k: int) -> list[int]:
        """Like a call, with the places of the passages in the corpus."""
        import numpy as np

        words = [word for word in _tokens([query])[0] if word in self._vocabulary]
        if not words or k < 1:
            return []
        scores = self._index.get_scores(words)
        least = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
        found = np.flatnonzero(scores >= max(least, np.finfo(scores.dtype).tiny))
        return [int(place) for place in found[np.argsort(-scores[found], kind="stable")][:k]]

    @cached_property
    def _vocabulary(self) -> Mapping[str, int]:
        return self._index.vocab_dict  # type: ignore[no-any-return]

    def _passage(self, place: int) -> str:
        start = int(self._ends[place - 1]) if place else 0
        return bytes(self._texts[start : int(self._ends[place])]).decode()


_VERSION = 1
"""Of the layout and the way texts are cut into words."""

_DONE = "bt-index.json"


def _documents(corpus: Path) -> Sequence[Mapping[str, Any]]:
    found = read_rows(corpus)
    for number, document in enumerate(found, 1):
        _passage(document, f"{corpus}: document {number}")
    return found


def _passage(document: Mapping[str, Any], name: str) -> str:
    title, text = document.get("title"), document.get("text")
    if not isinstance(title, str) or not isinstance(text, str):
        fields = ", ".join(f"{field!r} ({type(value).__name__})" for field, value in document.items()) or "nothing"
        raise DataError(f"{name} needs the texts 'title' and 'text', but has {fields}.")
    return f"{title} | {text}"


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = _bm25s().tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return found


def _bm25s() -> Any:
    """The library, which takes a while to import and is an extra."""
    try:
        import bm25s
    except ImportError as error:
        raise UsageError("retrieval needs bm25s: pip install 'bt-harness[retrieval]'.") from error
    return bm25s


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(f"the corpus {path} cannot be read: {error.strerror}.") from error
