"""How long the HotPotQA corpus takes to index, to reopen and to search.

BT_DATA_DIR=DIR python benchmarks/retrieval.py
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent.parent))

import bm25s  # noqa: F401 -- its import, and numpy's, is not part of what is measured

from harness.sources import read_rows
from programs.retrieval import BM25

T = TypeVar("T")


def timed(what: str, work: Callable[[], T]) -> T:
    """Do it, and print wall clock and processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    print(f"{what:<28} {time.perf_counter() - wall:7.3f} s   {time.process_time() - cpu:7.3f} s CPU")
    return found


def main() -> None:
    folder = Path(os.environ["BT_DATA_DIR"])
    corpus = folder / "hotpotqa_corpus.jsonl.gz"
    questions = [row for row in read_rows(folder / "hotpotqa_distractor.jsonl.gz") if row["split"] == "dev"][:200]
    with tempfile.TemporaryDirectory() as cache:
        index = timed("read, index and save", lambda: BM25.open(corpus, Path(cache)))
        for _ in range(3):
            index = timed(f"reopen {len(index):,} documents", lambda: BM25.open(corpus, Path(cache)))
        found = timed("200 queries, top 10", lambda: [index(row["question"], 10) for row in questions])
    titles = [{passage.partition(" | ")[0] for passage in passages} for passages in found]
    gold = [set(row["supporting_titles"]) for row in questions]
    one = sum(bool(have & want) for have, want in zip(titles, gold, strict=True))
    both = sum(want <= have for have, want in zip(titles, gold, strict=True))
    print(f"a gold title in the top 10: {one / len(gold):.1%}; both: {both / len(gold):.1%}")


if __name__ == "__main__":
    main()
