"""HotPotQA as an LM program: two hops of query and retrieval, then the answer (Yang et al. 2018, arXiv 1809.09600)."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

from harness import module
from harness.sources import HubData, find_file
from programs.retrieval import BM25, Retriever, cache_dir, unique

HOPS = 2
CORPUS = "hotpotqa_corpus"
ABSTRACTS = HubData("mteb/hotpotqa", "corpus", "corpus", "ab518f4d6fcca38d87c25209f94beba119d02014", file=CORPUS)
"""All 5.2 million Wikipedia abstracts of 2017 that the full-wiki setting searches."""


@module(reasoning=True, output="search_query")
def generate_query(context: list[str], question: str) -> str:
    """Write a search query that finds what is still missing to answer the question."""


@module(reasoning=True)
def generate_answer(context: list[str], question: str) -> str:
    """Answer the question from the context, in as few words as possible."""


def answer_multihop(question: str, k: int = 3) -> str:
    """Retrieve ``k`` passages a hop, then answer from all of them; passages found twice are shown once."""
    passages: list[str] = []
    for _ in range(HOPS):
        query = generate_query(context=passages, question=question)
        passages = unique(passages + search(query, k))
    return generate_answer(context=passages, question=question)


_chosen: Retriever | None = None


def use_retriever(retriever: Retriever | None) -> None:
    """Search with ``retriever`` from now on, in all threads; None goes back to BM25 over the corpus of the data."""
    global _chosen
    _chosen = retriever


def search(query: str, k: int) -> list[str]:
    """The ``k`` best passages for the query.

    Raises `DataMissingError` where there is neither a retriever nor a corpus.
    """
    return (_chosen or default_retriever())(query, k)


def default_retriever() -> BM25:
    """BM25 over ``hotpotqa_corpus`` in the data folder, else over the abstracts that the hub has."""
    with _opening:
        return _opened(find_file(CORPUS), cache_dir())


_opening = threading.Lock()


@cache
def _opened(corpus: Path | None, cache: Path) -> BM25:
    if corpus is not None:
        return BM25.open(corpus, cache)
    return BM25.open_named(f"{ABSTRACTS.repository}-{ABSTRACTS.revision}".replace("/", "-"), ABSTRACTS.load, cache)
