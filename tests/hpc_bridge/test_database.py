import sqlite3

import pytest

from hpc_bridge.database import Database
from hpc_bridge.errors import BackendUnavailable

SCHEMA = "CREATE TABLE IF NOT EXISTS thing(name TEXT PRIMARY KEY);"
PAGE_BYTES = 4096


@pytest.fixture
def path(tmp_path):
    """A database whose first page, the schema, is whole, and whose others are not."""
    path = tmp_path / "things.sqlite"
    database = Database(path, SCHEMA)
    for number in range(200):
        database.execute("INSERT INTO thing VALUES(?)", f"{number:0100}")
    database.close()
    content = path.read_bytes()
    path.write_bytes(content[:PAGE_BYTES] + b"x" * (len(content) - PAGE_BYTES))
    return path


def test_a_malformed_file_is_a_backend_that_is_not_there(path):
    database = Database(path, SCHEMA)
    with pytest.raises(BackendUnavailable, match=r"things\.sqlite: .*malformed"):
        database.query("SELECT * FROM thing")
    with pytest.raises(BackendUnavailable, match="malformed"), database.transaction():
        database.execute("INSERT INTO thing VALUES('a')")
    database.close()


def test_a_file_that_is_no_database_is_refused_and_left_to_the_next(path):
    path.write_bytes(b"no database, but long enough to be looked at" * 100)
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="not a database"):
            Database(path, SCHEMA)


def test_a_mistake_of_the_caller_is_not_put_down_to_the_disk(tmp_path):
    database = Database(tmp_path / "other.sqlite", SCHEMA)
    database.execute("INSERT INTO thing VALUES('a')")
    with pytest.raises(sqlite3.IntegrityError):
        database.execute("INSERT INTO thing VALUES('a')")
    database.close()
