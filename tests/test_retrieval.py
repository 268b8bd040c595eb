"""The BM25 index: what it finds, that it is built once, and that threads and processes may share it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import sources
from harness.errors import DataError, DataMissingError
from harness.sources import read_rows
from programs import hotpotqa
from programs.retrieval import BM25, cache_dir, unique
from programs.two_hop import lookup
from tests.paper_data import write_jsonl, write_small_data

REAL = os.environ.get("BT_DATA_DIR")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_small_data(tmp_path / "data")
    return tmp_path / "data" / "hotpotqa_corpus.jsonl.gz"


def test_the_passage_about_the_query_comes_first(corpus: Path, tmp_path: Path) -> None:
    index = BM25.open(corpus, tmp_path / "cache")
    assert len(index) == 180
    assert index("Who painted Opus7q?", 3)[0] == "Opus7q | Opus7q is a painting that Maker7q finished in 1507."
    assert len(index("painting", 5)) == 5
    assert index("painting", 5) == index("painting", 180)[:5]  # ties keep the corpus' order
    assert len(index("painting", 1000)) == 60  # the others share no word with the query


@pytest.mark.parametrize("query", ["", "the of a", "zzzz", "?!", "\ud800"])
def test_a_query_without_a_known_word_finds_nothing(corpus: Path, tmp_path: Path, query: str) -> None:
    assert BM25.open(corpus, tmp_path / "cache")(query, 3) == []


def test_an_index_is_built_once_and_again_when_the_corpus_changes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = BM25.open(corpus, cache)("Opus7q", 2)
    monkeypatch.setattr(BM25, "build", lambda *_: pytest.fail("the index was there"))
    assert BM25.open(corpus, cache)("Opus7q", 2) == first
    monkeypatch.undo()
    write_jsonl(corpus, [{"title": "Opus7q", "text": "changed"}, {"title": "Other", "text": "page"}])
    assert BM25.open(corpus, cache)("Opus7q", 2) == ["Opus7q | changed"]
    assert len(list(cache.iterdir())) == 2


def test_a_build_that_died_leaves_no_index_behind(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "x"
    broken = [{"title": "a", "text": "b"}, {"title": "a"}]
    with pytest.raises(DataError, match=r"document 2 needs the texts 'title' and 'text', but has 'title' \(str\)"):
        BM25.build(broken, folder)
    with pytest.raises(DataError, match="no documents"):
        BM25.build([], folder)
    with pytest.raises(DataError, match="has a word to search for"):
        BM25.build([{"title": "The", "text": "of a"}, {"title": "", "text": "."}], folder)
    assert not folder.exists()
    with pytest.raises(DataError, match="cannot be read"):
        BM25.open(tmp_path / "none.jsonl", tmp_path / "cache")
    assert BM25.open(corpus, tmp_path / "cache")


def test_a_document_without_its_texts_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    write_jsonl(path, [{"title": "a", "text": "b"}, {"title": "a", "text": 5}])
    message = r"pages\.jsonl: document 2 needs the texts .*, but has 'title' \(str\), 'text' \(int\)"
    with pytest.raises(DataError, match=message):
        BM25.open(str(path), tmp_path / "cache")


def test_threads_find_what_one_thread_finds(corpus: Path, tmp_path: Path) -> None:
    index = BM25.open(corpus, tmp_path / "cache")
    queries = [f"In which town did Maker{number % 60}q live, near Place{number % 7}q?" for number in range(300)]
    alone = [index(query, 5) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: index(query, 5), queries)) == alone


def test_the_program_searches_the_data_folder_or_any_callable(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BT_CACHE_DIR", str(tmp_path / "cache"))
    assert cache_dir() == tmp_path / "cache"
    sources.use_data_dir(corpus.parent)
    try:
        assert hotpotqa.search("Maker3q", 1) == ["Maker3q | Maker3q was a painter who lived in the town of Place3q."]
        hotpotqa.use_retriever(lambda query, k: [f"mine | {query}"] * k)
        assert hotpotqa.search("Maker3q", 2) == ["mine | Maker3q"] * 2
        hotpotqa.use_retriever(None)
        sources.use_data_dir(tmp_path)
        with pytest.raises(DataMissingError, match="hotpotqa_corpus"):
            hotpotqa.search("Maker3q", 1)
    finally:
        hotpotqa.use_retriever(None)
        sources.use_data_dir(None)


def test_passages_found_twice_count_once() -> None:
    assert unique(["b", "a", "b"]) == ["b", "a"]


def test_lookup_finds_the_page_named() -> None:
    pages = ["Anna Berg | x", "Anna | y", "Berg | z"]
    assert lookup("anna berg", pages, 1) == ["Anna Berg | x"]
    assert lookup("Anna", pages, 3) == ["Anna Berg | x", "Anna | y"]
    assert lookup("none", pages, 3) == []


def test_programs_import_nothing_heavy() -> None:
    code = (
        "import sys, programs.gsm8k, programs.hotpotqa, programs.arithmetic, programs.two_hop, programs.iris;"
        "print([m for m in ('bm25s', 'numpy', 'datasets', 'torch', 'litellm', 'hypothesis') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(REAL is None, reason="BT_DATA_DIR names no folder with HotPotQA")
def test_a_gold_paragraph_is_in_the_top_ten_for_97_percent_of_questions(tmp_path: Path) -> None:
    folder = Path(REAL or "")
    index = BM25.open(folder / "hotpotqa_corpus.jsonl.gz", tmp_path / "cache")
    assert len(index) == 18118
    questions = [row for row in read_rows(folder / "hotpotqa_distractor.jsonl.gz") if row["split"] == "dev"][:200]
    found = [{passage.partition(" | ")[0] for passage in index(row["question"], 10)} for row in questions]
    hits = sum(bool(titles & set(row["supporting_titles"])) for titles, row in zip(found, questions, strict=True))
    assert hits >= 0.97 * len(questions) == 194
