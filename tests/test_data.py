"""Examples, splits and samples."""

from __future__ import annotations

import copy
import gzip
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import Example, load_splits, sample
from harness.errors import DataError
from harness.options import Options
from harness.prompt import shown
from harness.sources import read_rows


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"number": number} for number in numbers]


def test_examples_are_read_as_items_and_as_attributes() -> None:
    example = Example({"question": "why", "count": 3})
    assert (example.question, example["question"], example["count"]) == ("why", "why", 3)
    with pytest.raises(AttributeError, match="no field 'answer', only question, count"):
        _ = example.answer


@pytest.mark.parametrize("name", ["items", "values", "keys", "get", "digest", "_row", "__len__"])
def test_fields_that_cannot_be_read_as_attributes_are_refused(name: str) -> None:
    data = {"train": rows(1), "validation": rows(2), "test": [{"number": 3, name: 4}]}
    with pytest.raises(DataError, match=f"'s': a row of 'test' has the field '{name}'.*rename"):
        load_splits(data, "s")


def test_a_copied_example_is_the_same_example_with_a_row_of_its_own() -> None:
    example = Example({"tags": ["a"]})
    for copied in (copy.copy(example), copy.deepcopy(example)):
        assert (copied, copied.digest) == (example, example.digest)
    copy.deepcopy(example).tags.append("b")
    assert example.tags == ["a"]


def test_any_bytes_have_a_digest_and_can_be_shown() -> None:
    pictures = [Example({"picture": picture}) for picture in (b"\xff", b"\xfe", b"a")]
    assert len({example.digest for example in pictures}) == 3
    assert shown(dict(pictures[0])) == '{"picture": "_w=="}'


_SETS = """
from dataclasses import dataclass
from harness import module
from harness.data import Example
from harness.prompt import shown, to_json

@dataclass(frozen=True)
class Box:
    tags: frozenset[str]

@module
def ask(tags: set[str], sizes: set[int], groups: dict[str, set[frozenset[str]]], boxes: list[Box]) -> str: ...

letters = frozenset("abcdefgh")
groups = {"x": {letters, frozenset({"z", "y"})}}
row = {"tags": set(letters), "sizes": {10, 9}, "groups": groups, "boxes": [Box(letters)]}
print(ask.messages(**row)[-1].content)
print(to_json(ask.signature.inputs, row))
print(Example(row).digest, shown(row))
"""


def test_sets_are_the_same_in_every_process() -> None:
    texts = [
        subprocess.run(
            [sys.executable, "-c", _SETS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        ).stdout
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1]
    assert "sizes:\n- 9\n- 10\n" in texts[0]
    assert 'groups: {"x": [["a", "b",' in texts[0]


def test_splits_may_be_a_callable_and_go_by_common_names() -> None:
    splits = load_splits(lambda: {"train": rows(1), "dev": rows(2), "test": rows(3)}, "s")
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [1, 1, 1]


def test_a_dataset_dict_is_a_mapping_of_splits() -> None:
    datasets = pytest.importorskip("datasets")
    made = {name: datasets.Dataset.from_list(rows(n)) for n, name in enumerate(("train", "validation", "test"))}
    splits = load_splits(datasets.DatasetDict(made), "s")
    assert splits.test[0].number == 2


def test_the_fingerprint_depends_on_rows_and_order_alone() -> None:
    def digest(*train: int) -> str:
        return load_splits({"train": rows(*train), "validation": rows(8), "test": rows(9)}, "s").digest

    assert digest(1, 2) == digest(1, 2) != digest(2, 1)


@given(st.lists(st.integers(0, 50), min_size=1), st.lists(st.integers(0, 50), min_size=1))
def test_splits_that_share_an_example_are_refused(train: list[int], test: list[int]) -> None:
    data = {"train": rows(*train), "validation": rows(99), "test": rows(*test)}
    if set(train) & set(test):
        with pytest.raises(DataError, match="'train' and 'test' share"):
            load_splits(data, "s")
    else:
        assert load_splits(data, "s").train


@given(
    st.lists(st.sampled_from("abc"), min_size=2, max_size=60),
    st.integers(1, 20),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 5),
)
def test_samples_are_disjoint_bounded_and_repeatable(
    labels: list[str], first: int, second: int, stratified: bool, seed: int
) -> None:
    examples = [Example({"n": n, "label": label}) for n, label in enumerate(labels)]

    def draw() -> tuple[list[int], list[int]]:
        drawn = sample(examples, (first, second), random.Random(seed), "label" if stratified else None)
        return [e.n for e in drawn[0]], [e.n for e in drawn[1]]

    one, two = draw()
    assert (one, two) == draw()
    assert not set(one) & set(two)
    assert len(one) <= first
    assert len(two) <= second
    assert one
    assert two
    assert len(one) + len(two) == min(first + second, len(labels))


def test_stratified_samples_hold_each_value_in_proportion() -> None:
    examples = [Example({"n": n, "label": "abc"[n // 17 % 3]}) for n in range(51)]
    first, second = sample(examples, (15, 35), random.Random(0), "label")
    assert set(Counter(e.label for e in first).values()) == {5}
    assert set(Counter(e.label for e in second).values()) <= {11, 12}


def test_blank_lines_and_a_byte_order_mark_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"a": 1}\n\n{"a": 2}\n  \n', encoding="utf-8")
    assert read_rows(path) == [{"a": 1}, {"a": 2}]


def damaged(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data, mtime=0))
    packed[12:16] = b"\xff" * 4
    return bytes(packed)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"a": 1}\n\n\n{"a": }\n', r"rows\.jsonl, line 4: Expecting value, column 7\. Write one JSON"),
        ("rows.jsonl", b'{"a": 1}\n{"a": ' + b"[" * 100_000, r"rows\.jsonl, line 2: .*recursion"),
        ("rows.jsonl", b'{"a": ' + b"9" * 5_000 + b"}", r"rows\.jsonl, line 1: .*4300 digits"),
        ("rows.jsonl", b'{"a": "\xe9"}\n', r"rows\.jsonl is not in UTF-8 .*; save it in UTF-8"),
        ("rows.jsonl.gz", damaged(b'{"a": 1}\n' * 1_000), r"rows\.jsonl\.gz, after line \d+: .*damaged; get it again"),
        ("rows.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1_000)[:-20], r"rows\.jsonl\.gz, after .*damaged; get it"),
        (
            "rows.jsonl",
            b'{"a": 1}\n{"b": 1}\n',
            r"rows\.jsonl, line 2: there is no field 'a', only b; every row needs a",
        ),
        ("rows.jsonl", b"{}", r"rows\.jsonl, line 1: there is no field 'a', only nothing"),
        ("folder", None, r"folder cannot be read: Is a directory\. Name a file"),
    ],
    ids=["no JSON", "deep", "long", "Latin-1", "damaged", "cut off", "no field", "no fields", "folder"],
)
def test_a_file_that_cannot_be_read_says_where_and_why(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(str(path), ("a",))


def test_an_empty_variable_names_no_data_folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_DATA_DIR", "")
    pytester.makeini("[pytest]\nbt_data_dir = data\n")
    assert Options.of(pytester.parseconfig()).data_dir == pytester.path / "data"


def test_data_without_the_field_to_stratify_by_are_refused() -> None:
    data = {"train": [{"number": 1, "label": "a"}, {"number": 2}], "validation": rows(3), "test": rows(4)}
    with pytest.raises(DataError, match="suite 's': a training example has no field 'label', only number; name"):
        load_splits(data, "s", "label")
    assert load_splits(data, "s", "number").train
