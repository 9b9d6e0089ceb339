"""The connection that answers are written on: what a block wrote is there whole or not at all."""

import sqlite3

import pytest
from sqlalchemy import create_engine, func, select, text

from sdpo.gateway.direct import DirectConnection
from sdpo.gateway.schema import OPT_OUTS
from sdpo.gateway.store import Store
from tests.gateway.running import POSTGRES


def marks(store: Store) -> set[str]:
    with store.engine.begin() as connection:
        return set(connection.execute(select(OPT_OUTS.c.mark)).scalars())


def row(mark: str) -> dict[str, object]:
    return {"mark": mark, "opted_out_at": 1.0}


def test_a_block_that_raises_leaves_nothing_and_the_next_is_written(store_url):
    store = Store(store_url)
    connection = DirectConnection(store.engine)
    insert = connection.compile(store.insert(OPT_OUTS).on_conflict_do_nothing())
    with pytest.raises(ZeroDivisionError), connection.transaction() as cursor:
        insert.execute(cursor, [row("lost")])
        1 / 0  # noqa: B018
    with connection.transaction() as cursor:
        insert.execute(cursor, [row("kept"), row("%s ? :mark"), row("kept")])
    assert marks(store) == {"kept", "%s ? :mark"}
    connection.close()
    store.close()


def test_a_statement_that_the_database_refuses_does_not_end_the_connection(store_url):
    store = Store(store_url)
    connection = DirectConnection(store.engine)
    insert = connection.compile(store.insert(OPT_OUTS))
    for _ in range(2):
        with connection.transaction() as cursor:
            first = connection._connection
            insert.execute(cursor, [row(f"m{len(marks(store))}")])
    with pytest.raises(store.engine.dialect.loaded_dbapi.IntegrityError) as caught, connection.transaction() as cursor:
        insert.execute(cursor, [row("m2"), row("m0")])
    assert not isinstance(caught.value, connection.unavailable)
    assert marks(store) == {"m0", "m1"} and connection._connection is first
    connection.close()
    store.close()


def test_a_file_that_another_holds_is_unavailable_and_written_when_it_is_free(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    connection = DirectConnection(store.engine)
    insert = connection.compile(store.insert(OPT_OUTS))
    with connection.transaction() as cursor:
        cursor.execute("PRAGMA busy_timeout=10")
    other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(connection.unavailable), connection.transaction() as cursor:
        insert.execute(cursor, [row("early")])
    other.execute("ROLLBACK")
    with connection.transaction() as cursor:
        insert.execute(cursor, [row("later")])
    assert marks(store) == {"later"}
    connection.close()
    store.close()


@pytest.mark.skipif(not POSTGRES, reason="SDPO_TEST_POSTGRES")
def test_a_connection_that_the_database_ended_is_opened_again(postgres_url):
    store = Store(postgres_url)
    connection = DirectConnection(store.engine)
    insert = connection.compile(store.insert(OPT_OUTS))
    with connection.transaction() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (process,) = cursor.fetchone()
    other = create_engine(store.engine.url)
    with other.begin() as ending:
        ending.execute(select(func.pg_terminate_backend(process)))
        ending.execute(text("SELECT 1"))
    other.dispose()
    with pytest.raises(connection.unavailable), connection.transaction() as cursor:
        insert.execute(cursor, [row("lost")])
    with connection.transaction() as cursor:
        insert.execute(cursor, [row("kept")])
    assert marks(store) == {"kept"}
    connection.close()
    store.close()
