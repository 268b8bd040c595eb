"""Files in the layout of the data folder, and a simulated LM that knows their answers but has to be shown how.

It answers rightly the more often, the more demos its prompt holds and once it is fine-tuned. For HotPotQA a good
query names the next supporting page, and an answer takes both supporting pages in the context. What it scores says
nothing about the quality of any method.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.sources import read_rows
from tests.http_lm import Body

Row = dict[str, Any]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One object a line, gzipped where the name says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def write_small_data(folder: Path, *, problems: int = 45, tests: int = 20, questions: int = 30) -> None:
    """GSM8K and HotPotQA as small files of the same names and fields as the real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [_problem(number) for number in range(problems + tests)]
    write_jsonl(folder / "gsm8k_train.jsonl.gz", made[:problems])
    write_jsonl(folder / "gsm8k_test.jsonl", made[problems:])
    asked = [_question(number, "dev" if number % 2 else "train") for number in range(2 * questions)]
    write_jsonl(folder / "hotpotqa_distractor.jsonl.gz", asked)
    pages = [page for number in range(2 * questions) for page in _pages(number)]
    corpus = [{"doc_id": place, **page, "pool": "question"} for place, page in enumerate(pages)]
    write_jsonl(folder / "hotpotqa_corpus.jsonl.gz", corpus)


def _problem(number: int) -> Row:
    boxes, each = 3 + number % 11, 7 + number
    total = boxes * each * 10
    question = f"Depot {number} stores {boxes * 10} crates of {each} lamps. How many lamps is that?"
    return {"question": question, "answer": f"{boxes * 10} * {each} = <<{total}>>{total}\n#### {total:,}"}


def _pages(number: int) -> list[Row]:
    work, person = f"Opus{number}q", f"Maker{number}q"
    return [
        {"title": work, "text": f"{work} is a painting that {person} finished in {1500 + number}."},
        {"title": person, "text": f"{person} was a painter who lived in the town of Place{number}q."},
        {"title": f"Place{number}q", "text": f"Place{number}q is a town with {number + 9} bridges."},
    ]


def _question(number: int, split: str) -> Row:
    pages = _pages(number)
    return {
        "id": f"q{number}",
        "question": f"In which town did the painter of Opus{number}q live?",
        "answer": f"Place{number}q",
        "split": split,
        "supporting_titles": [page["title"] for page in pages[:2]],
        "context": [{"title": page["title"], "sentences": [page["text"]]} for page in pages],
    }


def knowing_lm(folder: Path) -> Callable[[Body], str]:
    """The simulated LM for the files of a folder; a function of the request's body alone."""
    gold = {
        row["question"]: row["answer"].rpartition("#### ")[2]
        for name in ("gsm8k_train.jsonl.gz", "gsm8k_test.jsonl")
        for row in read_rows(folder / name)
    }
    hops = {row["question"]: row for row in read_rows(folder / "hotpotqa_distractor.jsonl.gz")}

    def answer(body: Body) -> str:
        turns = body["messages"]
        *_, last = turns[-1]["content"].rpartition("question: ")
        question = last.partition("\ncontext:")[0]
        right = _lucky(body)
        if question in gold:
            return f"reasoning: by the book\nanswer: {'$' + gold[question] + '.00' if right else 'about 0.5'}"
        row = hops[question]
        context = turns[-1]["content"]
        missing = [title for title in row["supporting_titles"] if f"{title} | " not in context]
        if "search_query:" in turns[0]["content"]:
            return f"reasoning: what is next?\nsearch_query: {missing[0] if right and missing else 'something else'}"
        return f"reasoning: as it says\nanswer: {'unknown' if missing or not right else 'The ' + row['answer'] + '.'}"

    return answer


def _lucky(body: Body) -> bool:
    turns = body["messages"]
    demos = sum(turn["role"] == "assistant" for turn in turns)
    skill = 0.65 + 0.1 * min(demos, 3) + (0.1 if str(body["model"]).startswith("ft:") else 0.0)
    text = json.dumps([turns, body["model"], body.get("seed")], sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 < skill
