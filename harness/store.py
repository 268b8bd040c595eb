"""The durable store: finished LM calls, trainings and evaluations, each under the digest of what was asked.

A folder holds one SQLite file; any other database that SQLAlchemy knows is reached by its URL. Every write is a
transaction of its own, so whatever was acknowledged outlives a SIGKILL. Any number of threads and processes may
use one store at a time; a process that forks opens the store again in the child.

Values are JSON in plain ASCII, with every other character escaped: databases that refuse NUL or lone surrogates
hold any Python string. The one text that comes back changed is a high and a low surrogate side by side as two
characters, which JSON reads as the single character they stand for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from harness.errors import StoreError, UsageError
from harness.lm.request import Completion, Request, Usage
from harness.train.job import TrainingResult

__all__ = ["SCHEMA_VERSION", "Store"]

SCHEMA_VERSION: Final = 1
"""Of the tables; a store of another version is refused, never converted silently."""

_BUSY_SECONDS: Final = 30.0
_FILE: Final = "store.sqlite"
_log = logging.getLogger(__name__)

_metadata = sa.MetaData()
_key = sa.String(255)
# MySQL's TEXT ends at 64 KiB; with a length it picks the type that fits.
_json = sa.Text().with_variant(sa.Text(2**32 - 1), "mysql", "mariadb")


def _table(name: str, *columns: str) -> sa.Table:
    """Rows under a digest, with the time (seconds since 1970) they were written."""
    return sa.Table(
        name,
        _metadata,
        sa.Column("key", _key, primary_key=True),
        *(sa.Column(column, _json, nullable=False) for column in columns),
        sa.Column("created", sa.Double, nullable=False),
    )


_calls = _table("calls", "request", "completion")
_trainings = _table("trainings", "result")
_evaluations = _table("evaluations", "record")
_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("name", _key, primary_key=True),
    sa.Column("value", _key, nullable=False),
)


def _select(table: sa.Table, column: str) -> sa.Select[Any]:
    return sa.select(table.c[column]).where(table.c.key == sa.bindparam("wanted"))


_get_call = _select(_calls, "completion")
_get_training = _select(_trainings, "result")
_get_evaluation = _select(_evaluations, "record")


class Store:
    """What is finished and need not be done again. Made by `Store.open`; a context manager that closes it."""

    def __init__(self, engine: sa.Engine, folder: Path | None) -> None:
        self._engine = engine
        self._folder = folder
        self._where = engine.url.database if engine.dialect.name == "sqlite" else repr(engine.url)

    @classmethod
    def open(cls, where: str | Path, *, folder: Path | None = None) -> Self:
        """Open or make the store in a folder, or the one behind an SQLAlchemy URL.

        A folder that is made gets mode 0700 and its file 0600. ``folder`` is where the locks of a server
        database live; a store in a folder of its own keeps them there. Raises `StoreError` where the store cannot
        be read and written, is damaged, or belongs to another version.
        """
        if not isinstance(where, str) or "://" not in where:
            home = Path(where)
            url = sa.URL.create("sqlite", database=str(home / _FILE))
        else:
            url = _parsed(where)
            home = Path(url.database).parent if _is_sqlite(url) and url.database else Path()
        if not _is_sqlite(url):
            return cls._ready(url, folder)
        if not url.database or url.database == ":memory:":
            raise UsageError("a store in memory keeps nothing; name a folder or a database URL")
        try:
            _make_private(home, Path(url.database))
        except OSError as error:
            raise StoreError(
                f"the store {url.database} cannot be written ({error.strerror}); "
                "make its folder writable or name another one"
            ) from None
        return cls._ready(url, folder or home)

    @classmethod
    def _ready(cls, url: sa.URL, folder: Path | None) -> Self:
        try:
            store = cls(_engine(url), folder)
        except (ImportError, NoSuchModuleError, ArgumentError) as error:
            raise StoreError(
                f"no driver for {url.drivername!r} databases: {error}; install one or name a folder"
            ) from None
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def _prepare(self) -> None:
        # Making the tables, and switching SQLite to WAL, must not happen in two processes at once.
        if self._folder is not None:
            with self.lock("schema"):
                self._prepare_schema()
            return
        # A server without a folder has no lock, so two processes can make the same table; one of them fails, with
        # what depends on the database, and finds the table at its next look.
        for attempt in range(1, len(_metadata.tables) + 2):
            try:
                self._prepare_schema()
                return
            except StoreError as error:
                known = "already exists" in str(error) or "duplicate" in str(error).lower()
                if not known or attempt > len(_metadata.tables):
                    raise
            time.sleep(0.05 * attempt)

    def _prepare_schema(self) -> None:
        with self._connection() as connection:
            names = set(sa.inspect(connection).get_table_names())
            if "meta" not in names:
                if self._engine.dialect.name == "sqlite" and names - set(_metadata.tables):
                    raise StoreError(f"{self._where} is a database of something else; name another folder")
                if self._engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL").close()
            _metadata.create_all(connection)
            found = connection.execute(sa.select(_meta.c.value).where(_meta.c.name == "schema")).scalar()
            if found is None:
                self._insert(connection, _meta, {"name": "schema", "value": str(SCHEMA_VERSION)})
            elif found != str(SCHEMA_VERSION):
                raise StoreError(
                    f"{self._where} has schema {found}, this version of bt-harness reads {SCHEMA_VERSION}; "
                    "use the version that wrote it, or name another folder to start afresh"
                )

    @property
    def folder(self) -> Path | None:
        """Where locks live and adapters may; None for a server database without one."""
        return self._folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. What was put is already durable."""
        self._engine.dispose()

    def get_call(self, key: str) -> Completion | None:
        """The completion of a finished LM call. Raises `StoreError` where its row cannot be read."""
        text = self._get(_get_call, key)
        if text is None:
            return None
        try:
            return _completion_of(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged("calls", key, error) from None

    def put_call(self, key: str, request: Request, completion: Completion) -> bool:
        """Keep a finished LM call; False where another writer was first, whose completion then stands."""
        row = {
            "key": key,
            "request": _dumps(asdict(request)),
            "completion": _dumps(asdict(completion)),
            "created": time.time(),
        }
        with self._connection() as connection:
            return self._insert(connection, _calls, row)

    def get_training(self, key: str) -> TrainingResult | None:
        """The result of a finished training. Raises `StoreError` where its row cannot be read."""
        text = self._get(_get_training, key)
        if text is None:
            return None
        try:
            fields = json.loads(text)
            return TrainingResult(**{**fields, "losses": tuple(fields["losses"])})
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged("trainings", key, error) from None

    def put_training(self, key: str, result: TrainingResult) -> None:
        """Keep a finished training; a later one under the same key replaces it (its adapter was lost)."""
        self._replace(_trainings, key, {"result": _dumps(result.to_json())})

    def get_evaluation(self, key: str) -> Any:
        """The JSON value of an evaluation, or None. Raises `StoreError` where its row cannot be read."""
        text = self._get(_get_evaluation, key)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._damaged("evaluations", key, error) from None

    def put_evaluation(self, key: str, record: Any) -> None:
        """Keep a JSON value; a later one under the same key replaces it (unscored examples got their score)."""
        self._replace(_evaluations, key, {"record": _dumps(record)})

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold ``key`` for this thread alone among all processes; waits, and is freed when its holder is killed.

        Raises `StoreError` where the store has no folder or the folder cannot be written.
        """
        if self._folder is None:
            raise StoreError(f"the store {self._where} has no folder for its locks; give Store.open a folder")
        path = self._folder / "locks" / f"{hashlib.sha256(key.encode()).hexdigest()}.lock"
        lock = FileLock(path, mode=0o600)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.info("waiting for another process that holds %s", key)
                lock.acquire(poll_interval=0.05)
        except OSError as error:
            raise StoreError(
                f"the lock {path} cannot be taken ({error.strerror}); make its folder writable or name another one"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        # Only the text of a driver's error is passed on: its chain can hold the password of a server's URL.
        try:
            with self._engine.connect() as connection:
                yield connection
            return
        except SQLAlchemyError as error:
            failure = self._explained(error)
        raise failure

    def _get(self, query: sa.Select[Any], key: str) -> str | None:
        with self._connection() as connection:
            text: str | None = connection.scalar(query, {"wanted": key})
        return text

    def _replace(self, table: sa.Table, key: str, values: dict[str, str]) -> None:
        row = {"created": time.time(), **values}
        update = table.update().where(table.c.key == key).values(row)
        with self._connection() as connection:
            if connection.execute(update).rowcount or self._insert(connection, table, {"key": key, **row}):
                return
            # Another writer inserted the row in between.
            connection.execute(update)

    @staticmethod
    def _insert(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> bool:
        """Insert unless the key is there; "or ignore" as every database understands it."""
        try:
            connection.execute(table.insert(), values)
        except IntegrityError:
            return False
        return True

    def _damaged(self, table: str, key: str, error: Exception) -> StoreError:
        return StoreError(
            f"row {key} of {table} in {self._where} cannot be read ({type(error).__name__}: {error}); "
            "delete the row to have it made again"
        )

    def _explained(self, error: SQLAlchemyError) -> StoreError:
        reason = str(getattr(error, "orig", None) or error)
        if password := self._engine.url.password:
            reason = reason.replace(str(password), "***")
        low = reason.lower()
        if "not a database" in low or "malformed" in low or "encrypted" in low:
            remedy = "it is damaged or no store: move it away (finished LM calls are then made again) or restore a copy"
        elif "locked" in low or "busy" in low:
            remedy = f"another process has held it for {_BUSY_SECONDS:.0f} s: wait until it is done, or end it"
        elif "readonly" in low or "read-only" in low or "unable to open" in low or "permission" in low:
            remedy = "make it and its folder writable or name another folder"
        elif "disk is full" in low:
            remedy = "make room on its disk"
        else:
            remedy = "check that it is reachable and that this user may read and write it"
        return StoreError(f"the store {self._where} failed ({reason}); {remedy}")


def _is_sqlite(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _parsed(text: str) -> sa.URL:
    try:
        return sa.make_url(text)
    except (ArgumentError, ValueError):
        # The text is not repeated: it may hold a password.
        raise StoreError("the store's URL cannot be read; it looks like postgresql+psycopg://HOST/NAME") from None


def _engine(url: sa.URL) -> sa.Engine:
    # Without a transaction around them reads hold no snapshot and each write is durable when it returns.
    # A call never waits for a connection of the pool (max_overflow): that could deadlock many threads.
    if not _is_sqlite(url):
        return sa.create_engine(
            url, isolation_level="AUTOCOMMIT", hide_parameters=True, max_overflow=-1, pool_pre_ping=True
        )
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        max_overflow=-1,
        pool_size=16,
        pool_use_lifo=True,
        pool_reset_on_return=None,
        connect_args={"timeout": _BUSY_SECONDS},
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        # In WAL mode NORMAL survives a killed process. A power cut can lose the last rows, but not break the file.
        connection.execute("PRAGMA synchronous=NORMAL").close()

    return engine


def _make_private(folder: Path, file: Path) -> None:
    """Make folder and file for this user alone; SQLite gives the file's mode to its -wal and -shm as well."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    for part in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        if part.exists() and part.stat().st_mode & 0o077:
            part.chmod(0o600)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _completion_of(fields: dict[str, Any]) -> Completion:
    text, finish, usage = fields["text"], fields["finish"], fields["usage"]
    prompt, completion, seconds = usage["prompt_tokens"], usage["completion_tokens"], fields["seconds"]
    if not isinstance(text, str) or finish not in ("stop", "length"):
        raise ValueError("not a completion")
    if not (isinstance(prompt, int) and isinstance(completion, int) and isinstance(seconds, int | float)):
        raise ValueError("not the usage of a completion")
    return Completion(text, Usage(prompt, completion), finish, float(seconds))
