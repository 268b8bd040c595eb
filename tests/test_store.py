"""The durable store: what is acknowledged stays, whoever else writes and whoever is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import StoreError, UsageError
from harness.lm.request import Completion, LMRef, Message, Request, Usage
from harness.store import SCHEMA_VERSION, Store
from harness.train.job import TrainingResult

REQUEST = Request(LMRef("openai/m"), (Message("user", "2 + 2?"),))
ROOT = Path(__file__).parent.parent


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "bt") as opened:
        yield opened


def sql(folder: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "store.sqlite")
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_calls_trainings_and_evaluations_come_back_in_a_new_process(tmp_path: Path) -> None:
    completion = Completion("four", Usage(5, 1), "length", 0.25)
    result = TrainingResult("abc", 40, 50, 1234, (2.0, 0.5, float("inf")), 3.5)
    with Store.open(tmp_path) as store:
        assert store.get_call("k") is None
        assert store.put_call("k", REQUEST, completion)
        store.put_training("t", result)
        store.put_evaluation("e", {"scores": [1, 0.5, None]})
    with Store.open(str(tmp_path)) as again:
        assert again.get_call("k") == completion
        assert again.get_training("t") == result
        assert again.get_evaluation("e") == {"scores": [1, 0.5, None]}
        assert again.get_training("k") is None
        assert again.get_evaluation("k") is None


def test_the_first_completion_stands_and_the_last_training_and_evaluation_do(store: Store) -> None:
    assert store.put_call("k", REQUEST, Completion("first"))
    assert not store.put_call("k", REQUEST, Completion("second"))
    found = store.get_call("k")
    assert found is not None
    assert found.text == "first"
    for adapter in "ab":
        store.put_training("k", TrainingResult(adapter, 1, 1, 1, (), 1.0))
    training = store.get_training("k")
    assert training is not None
    assert training.adapter == "b"
    store.put_evaluation("k", [None])
    store.put_evaluation("k", [1.0])
    assert store.get_evaluation("k") == [1.0]


# Surrogates included: json.loads of a provider's "\ud83d" makes one, and no database driver takes it as text.
any_text = st.text(st.characters(codec=None, categories=None), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(text=any_text, tokens=st.integers(0, 2**40), seconds=st.floats(0, 1e6), cut=st.booleans())
def test_any_text_comes_back(store: Store, text: str, tokens: int, seconds: float, cut: bool) -> None:
    completion = Completion(text, Usage(tokens, tokens), "length" if cut else "stop", seconds)
    key = REQUEST.digest + str(time.perf_counter_ns())
    store.put_call(key, Request(LMRef("m"), (Message("user", text),)), completion)
    # Two surrogate characters that make up one come back as the one.
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert store.get_call(key) == Completion(joined, completion.usage, completion.finish, seconds)


def test_folder_and_files_are_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bt"
    with Store.open(folder) as store:
        store.put_call("k", REQUEST, Completion("x"))
        with store.lock("k"):
            pass
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {"store.sqlite", "store.sqlite-wal", "store.sqlite-shm"} <= {path.name for path in files}
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_an_older_file_is_closed_to_others_too(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    (tmp_path / "store.sqlite").chmod(0o644)
    Store.open(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "store.sqlite").stat().st_mode) == 0o600


def test_many_threads(store: Store) -> None:
    def work(number: int) -> None:
        for index in range(20):
            key = f"{index % 10}"
            store.put_call(key, REQUEST, Completion(key))
            found = store.get_call(key)
            if found is None or found.text != key:
                wrong.append((number, index))

    wrong: list[tuple[int, int]] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


WRITER = """
import sys
from pathlib import Path
from harness.lm.request import Completion, LMRef, Message, Request
from harness.store import Store
store = Store.open(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    key = f"{sys.argv[2]}{number}"
    store.put_call(key, Request(LMRef("m"), (Message("user", key),)), Completion("answer " + key))
    print(key, flush=True)
"""


def test_two_processes_share_one_store_from_its_making_on(tmp_path: Path) -> None:
    writers = [process(WRITER, tmp_path, name, 150) for name in "ab"]
    outputs = [writer.communicate(timeout=30)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    with Store.open(tmp_path) as store:
        for key in "".join(outputs).split():
            found = store.get_call(key)
            assert found is not None
            assert found.text == "answer " + key


@pytest.mark.parametrize("lines", [1, 60, 333])
def test_what_was_acknowledged_outlives_sigkill(tmp_path: Path, lines: int) -> None:
    writer = process(WRITER, tmp_path, "k", 10**9)
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().strip() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [line for line in writer.stdout.read().split("\n")[:-1] if line]
    writer.wait()
    writer.stdout.close()
    with Store.open(tmp_path) as store:
        assert all(store.get_call(key) == Completion("answer " + key) for key in acknowledged)
    assert sql(tmp_path, "PRAGMA integrity_check") == [("ok",)]


def test_a_kill_while_the_tables_are_made_leaves_a_store(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    for statement in ("DELETE FROM meta", "DROP TABLE meta", "DROP TABLE evaluations", "DROP TABLE calls"):
        sql(tmp_path, statement)
        with Store.open(tmp_path) as store:
            assert store.put_call(statement, REQUEST, Completion("x"))


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = process(
        "import sys, time\nfrom harness.store import Store\n"
        "with Store.open(sys.argv[1]).lock('training'):\n    print('held', flush=True)\n    time.sleep(60)",
        tmp_path,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    taken = threading.Event()

    def take() -> None:
        with store.lock("training"):
            taken.set()

    with Store.open(tmp_path) as store, caplog.at_level("INFO", "harness.store"):
        with store.lock("another"):
            pass
        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.wait(0.3)
        holder.kill()
        assert taken.wait(5)
        thread.join()
    holder.wait()
    holder.stdout.close()
    assert "waiting for another process that holds training" in caplog.text


def test_threads_of_one_process_exclude_each_other(store: Store) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with store.lock("key"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


@pytest.mark.parametrize("content", [b"this is no database " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.sqlite failed .*move it away") as caught:
        Store.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / "store.sqlite").read_bytes() == content


def test_a_file_damaged_in_the_middle(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        for number in range(300):
            store.put_call(f"{number}", REQUEST, Completion("x" * 200))
    file = tmp_path / "store.sqlite"
    content = file.read_bytes()
    file.write_bytes(content[:8192] + b"\xee" * (len(content) - 8192))

    def read_all() -> None:
        with Store.open(tmp_path) as store:
            for number in range(300):
                store.get_call(f"{number}")

    with pytest.raises(StoreError, match="move it away"):
        read_all()


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, "unheard-of"])
def test_another_schema(tmp_path: Path, version: object) -> None:
    Store.open(tmp_path).close()
    sql(tmp_path, "UPDATE meta SET value = ?", str(version))
    with pytest.raises(StoreError, match=rf"has schema {version}.* reads {SCHEMA_VERSION}; use the version"):
        Store.open(tmp_path)


def test_a_database_of_something_else(tmp_path: Path) -> None:
    sql(tmp_path, "CREATE TABLE people (name TEXT)")
    with pytest.raises(StoreError, match="database of something else; name another folder"):
        Store.open(tmp_path)
    assert sql(tmp_path, "SELECT name FROM sqlite_master") == [("people",)]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "null", '{"text":1,"finish":"stop","usage":{"prompt_tokens":1,"completion_tokens":1},"seconds":0}'],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    with Store.open(tmp_path) as store:
        store.put_call("call-key", REQUEST, Completion("x"))
        store.put_training("training-key", TrainingResult("a", 1, 1, 1, (), 1.0))
        store.put_evaluation("evaluation-key", 1)
        sql(tmp_path, "UPDATE calls SET completion = ?", text)
        sql(tmp_path, "UPDATE trainings SET result = ?", text)
        sql(tmp_path, "UPDATE evaluations SET record = '{'")
        with pytest.raises(StoreError, match=r"row call-key of calls in .*delete the row"):
            store.get_call("call-key")
        with pytest.raises(StoreError, match="row training-key of trainings"):
            store.get_training("training-key")
        with pytest.raises(StoreError, match="row evaluation-key of evaluations"):
            store.get_evaluation("evaluation-key")


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written .* name another one"):
        Store.open(tmp_path / "file" / "bt")
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "bt"
    folder.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="make its folder writable or name another one"):
        Store.open(folder)


def test_a_file_that_turned_read_only(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        with store._connection() as connection:
            connection.exec_driver_sql("PRAGMA query_only=ON")
        with pytest.raises(StoreError, match="make it and its folder writable"):
            store.put_call("k", REQUEST, Completion("x"))


def test_a_full_disk(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        with store._connection() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=1")
        with pytest.raises(StoreError, match="make room on its disk"):
            store.put_call("k", REQUEST, Completion("x" * 100_000))
        assert store.get_call("k") is None


def test_a_url_names_the_file_and_its_folder_holds_the_locks(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/named.db") as store:
        assert store.put_call("k", REQUEST, Completion("x"))
        with store.lock("k"):
            assert (tmp_path / "locks").is_dir()
        assert store.folder == tmp_path
    assert stat.S_IMODE((tmp_path / "named.db").stat().st_mode) == 0o600


def test_urls_that_cannot_be_stores() -> None:
    with pytest.raises(UsageError, match="in memory keeps nothing"):
        Store.open("sqlite://")
    with pytest.raises(StoreError, match="no driver for 'nosuch' databases"):
        Store.open("nosuch://host/db")
    for url in ("postgresql://user:hunter22@host:port/db", "oracle://user:hunter22@host/db"):
        with pytest.raises(StoreError) as caught:
            Store.open(url)
        assert "hunter22" not in str(caught.value)


def test_a_store_without_a_folder_has_no_locks(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        homeless = Store(store._engine, None)
        with pytest.raises(StoreError, match="no folder for its locks"), homeless.lock("k"):
            pass


@pytest.mark.skipif("BT_TEST_DATABASE" not in os.environ, reason="BT_TEST_DATABASE names no server database")
def test_a_server_database(tmp_path: Path) -> None:
    url = os.environ["BT_TEST_DATABASE"]
    errors: list[StoreError] = []

    def make() -> None:
        try:
            Store.open(url).close()
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    key = str(time.time_ns())
    completion = Completion("NUL \0, half an emoji \ud83d, é", Usage(1, 2))
    with Store.open(url, folder=tmp_path) as store, store.lock(key):
        assert store.put_call(key, REQUEST, completion)
        assert not store.put_call(key, REQUEST, Completion("second"))
        assert store.get_call(key) == completion
        for record in ([None], [1.0]):
            store.put_evaluation(key, record)
        assert store.get_evaluation(key) == [1.0]
