"""Two-hop questions over a handful of pages: query, query, answer, with a lookup between.

The shape of `programs.hotpotqa`, for LMs that can write a name but no free-text query.
"""

from __future__ import annotations

import re

from harness import module
from programs.retrieval import unique

HOPS = 2


@module(output="search_query")
def find_next(context: list[str], question: str) -> str:
    """Name the page that is still missing to answer the question."""


@module
def read_answer(context: list[str], question: str) -> str:
    """Reply with the name that the pages give as the answer."""


def answer_two_hop(question: str, pages: list[str], k: int = 1) -> str:
    """Look up ``k`` pages a hop, then answer from all that were found."""
    found: list[str] = []
    for _ in range(HOPS):
        query = find_next(context=found, question=question)
        found = unique(found + lookup(query, pages, k))
    return read_answer(context=found, question=question)


def lookup(query: str, pages: list[str], k: int) -> list[str]:
    """The ``k`` pages whose titles share most words with the query; earlier pages first among equals.

    A page is ``title | text``. Pages that share no word are not found.
    """
    wanted = set(_words(query))
    shared = [(len(wanted & set(_words(page.partition(" | ")[0]))), page) for page in pages]
    best = sorted(shared, key=lambda pair: -pair[0])
    return [page for count, page in best[:k] if count]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
