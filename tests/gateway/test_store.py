"""The store in SQLite and PostgreSQL: conversations, what was used, versions of its tables, forgetting, retention."""

import sqlite3
import threading
import time

import pytest
from sqlalchemy import select, text, update

from sdpo.errors import RunError, SettingError
from sdpo.gateway import migrations, retention
from sdpo.gateway.exchanges import OPEN
from sdpo.gateway.export import row_of
from sdpo.gateway.recovery import taking_part
from sdpo.gateway.schema import CONVERSATIONS, EXCHANGES, PIECES, RATINGS, USES
from sdpo.gateway.store import Store
from tests.gateway.running import said
from tests.gateway.test_history import asked

CHAT = [
    {"role": "system", "content": "Be kind."},
    asked("Hello \x00 \ud800"),
    said("Hi."),
    asked("Shorter."),
    said("H."),
]


def add(store: Store, name: str, user: str = "ann", **more) -> str:
    return store.add_conversation(CHAT, id=name, user=user, **more)


def names(store: Store, **options) -> list[str]:
    return [one.id for one in store.conversations(**options)]


def test_a_conversation_comes_back_as_it_was_added(store_url):
    store = Store(store_url)
    rating = {"message": 2, "rating": -1, "comment": "too “long” \x00"}
    add(store, "one", versions=["", "v0001"], ratings=[rating], started_at=100.0)
    [kept] = store.conversations()
    assert (kept.id, kept.user, kept.messages, kept.ratings) == ("one", "ann", CHAT, [rating])
    assert (kept.versions, kept.started_at) == (["", "v0001"], 100.0) and kept.updated_at >= 100
    assert store.conversation("one") == kept and store.conversation("two") is None


def test_a_truncated_answer_is_exported_as_unfinished(store_url):
    store = Store(store_url)
    add(store, "one")
    with store.writing.begin() as connection:
        connection.execute(update(EXCHANGES).where(EXCHANGES.c.parent.is_(None)).values(finish_reason="length"))
    [kept] = store.conversations()
    marks = [message.get("finished") for message in row_of(kept)["messages"]]
    assert marks == [False if index == kept.unfinished[0] else None for index in range(len(marks))]
    assert kept.messages[kept.unfinished[0]]["role"] == "assistant"


def test_many_conversations_come_in_the_order_in_which_they_started(store_url):
    store = Store(store_url)
    for number in range(450):
        store.add_conversation(CHAT[1:3], id=f"c{number}", started_at=1000.0 + (number * 7) % 450)
    started = [one.started_at for one in store.conversations()]
    assert started == sorted(started) and len(started) == 450


def test_what_a_run_used_is_unused_again_when_it_goes_on(store_url):
    store = Store(store_url)
    for name in ("one", "two"):
        add(store, name)
    assert store.used_by("one") == []
    store.mark_used(["one", "one~2"], "night-1")
    assert (names(store, only_unused=True), names(store)) == (["two"], ["one", "two"])
    store.mark_used(["one"], "night-2")
    assert store.used_by("one") == ["night-1", "night-2"] == store.used_by("one~2")
    time.sleep(0.01)
    with store.writing.begin() as connection:
        connection.execute(update(EXCHANGES).where(EXCHANGES.c.conversation == "one").values(finished_at=time.time()))
    assert names(store, only_unused=True) == ["one", "two"]
    store.mark_used(["one", "two"], "night-3", until=time.time() + 60)
    assert names(store, only_unused=True) == []
    store.unmark_used("night-3")
    assert names(store, only_unused=True) == ["one", "two"]


def test_forgetting_a_user_removes_all_rows_and_names_the_runs(store_url):
    store = Store(store_url)
    add(store, "first-chat", ratings=[{"message": 2, "rating": 1}])
    add(store, "two", user="bob", ratings=[{"message": 2, "rating": 1}])
    store.mark_used(["first-chat", "two"], "night-1")
    gone = retention.forget(store, "ann")
    assert (gone.conversations, gone.exchanges, gone.runs) == (["first-chat"], 2, ["night-1"])
    assert names(store) == ["two"] and store.used_by("first-chat") == []
    with store.engine.begin() as connection:
        for table in (CONVERSATIONS, EXCHANGES, PIECES, RATINGS, USES):
            rows = connection.execute(select(table)).mappings().all()
            assert "first-chat" not in str(rows) and "ann" not in str(rows), table
    assert retention.forget(store, "ann").conversations == []


def test_retention_removes_what_is_old_and_keeps_what_is_young_of_a_conversation(store_url):
    store = Store(store_url)
    now = time.time()
    add(store, "old", started_at=now - 3 * 86_400)
    add(store, "both", started_at=now - 3 * 86_400)
    add(store, "young")
    with store.writing.begin() as connection:
        last = select(EXCHANGES.c.id).where(EXCHANGES.c.conversation == "both", EXCHANGES.c.parent.is_not(None))
        connection.execute(update(EXCHANGES).where(EXCHANGES.c.id.in_(last)).values(started_at=now))
    assert retention.purge(store, 2) == 3
    assert names(store) == ["both", "young"]
    assert [message["content"] for message in store.conversation("both").messages] == ["Shorter.", "H."]


# The versions of the tables

_FIRST = """
CREATE TABLE sdpo_schema (version INTEGER NOT NULL);
INSERT INTO sdpo_schema VALUES (1);
CREATE TABLE conversations (id TEXT NOT NULL PRIMARY KEY, "key" TEXT NOT NULL, "user" TEXT NOT NULL, started_at FLOAT
 NOT NULL);
CREATE TABLE exchanges (id TEXT NOT NULL PRIMARY KEY, conversation TEXT NOT NULL, parent TEXT, "key" TEXT NOT NULL,
 "user" TEXT NOT NULL, state TEXT NOT NULL, gateway TEXT NOT NULL, started_at FLOAT NOT NULL, finished_at FLOAT,
 request_id TEXT NOT NULL, message_id TEXT, model TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL,
 system TEXT, messages TEXT NOT NULL, answers TEXT, finish_reason TEXT, usage TEXT, asked TEXT NOT NULL, answered TEXT,
 said TEXT);
CREATE TABLE pieces (exchange TEXT NOT NULL, channel TEXT NOT NULL, number INTEGER NOT NULL, text TEXT NOT NULL,
 PRIMARY KEY (exchange, channel, number));
CREATE TABLE ratings (id TEXT NOT NULL PRIMARY KEY, exchange TEXT NOT NULL, conversation TEXT NOT NULL, rating INTEGER
 NOT NULL, comment TEXT, rated_at FLOAT NOT NULL);
CREATE TABLE uses (conversation TEXT NOT NULL, run TEXT NOT NULL, until FLOAT NOT NULL, used_at FLOAT NOT NULL,
 PRIMARY KEY (conversation, run));
CREATE TABLE opt_outs (mark TEXT NOT NULL PRIMARY KEY, opted_out_at FLOAT NOT NULL);
CREATE TABLE keys (name TEXT NOT NULL PRIMARY KEY, hash TEXT NOT NULL UNIQUE, per_minute INTEGER NOT NULL, at_once
 INTEGER NOT NULL, created_at FLOAT NOT NULL, revoked_at FLOAT);
CREATE INDEX exchanges_user ON exchanges (user);
CREATE INDEX exchanges_answered ON exchanges (answered);
INSERT INTO conversations VALUES ('old', '', 'ann', 5.0);
INSERT INTO exchanges VALUES ('x-1', 'old', NULL, '', 'ann', 'complete', 'g', 5.0, 6.0, 'r', NULL, 'm', '', '{}', '[]',
 '[{"role": "user", "content": "Hello"}]', '[{"role": "assistant", "content": "Hi."}]', 'stop', NULL, 'h1', 'h2', 'h3');
"""


def test_a_store_of_the_first_version_is_brought_to_this_one(tmp_path):
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(_FIRST)
    store = Store(f"sqlite:///{path}")
    [kept] = store.conversations()
    assert kept.messages == [asked("Hello"), said("Hi.")]
    add(store, "new")
    assert names(Store(f"sqlite:///{path}")) == ["old", "new"]
    fresh = Store(f"sqlite:///{tmp_path / 'fresh.sqlite'}")

    def columns(one: Store) -> dict[str, set[str]]:
        with sqlite3.connect(one.path) as connection:
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for name in tables}

    assert columns(store) == columns(fresh)

    def indexes(one: Store) -> set[str]:
        with sqlite3.connect(one.path) as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'exchanges' AND sql IS NOT NULL"
            return {row[0] for row in connection.execute(query)}

    assert indexes(store) == indexes(fresh) >= {"exchanges_user_answered", "exchanges_parent"}


@pytest.mark.parametrize("answers", [1, 2, 10])
def test_the_place_of_a_request_is_found_without_reading_all_of_a_users_exchanges(tmp_path, answers):
    """Clients that name no user are all one user."""
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    add(store, "one")
    marks = ", ".join("?" * answers)
    queries = {
        f"SELECT * FROM exchanges WHERE answered IN ({marks}) AND key = ? AND user = ?": "exchanges_user_answered",
        f"SELECT parent FROM exchanges WHERE parent IN ({marks})": "exchanges_parent",
        "SELECT id FROM exchanges WHERE user = ?": "exchanges_user_answered",
    }
    with sqlite3.connect(store.path) as connection:
        for query, index in queries.items():
            [plan] = connection.execute(f"EXPLAIN QUERY PLAN {query}", ["x"] * query.count("?"))
            assert "SEARCH" in plan[-1] and index in plan[-1]


def test_a_store_of_a_newer_version_is_refused(store_url):
    store = Store(store_url)
    with store.writing.begin() as connection:
        connection.execute(text(f"UPDATE sdpo_schema SET version = {migrations.VERSION + 1}"))
    with pytest.raises(RunError, match=f"has version {migrations.VERSION + 1}.*up to {migrations.VERSION}"):
        Store(store_url)


def test_several_that_open_a_new_store_at_once_make_its_tables_once(store_url):
    found: list = []

    def open_one() -> None:
        try:
            found.append(names(Store(store_url)))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[]] * 6


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("mysql://u:s3cret@h/d?passfile=s3cret", r"STORE_URL=mysql://u:\*\*\*@h/d is neither a SQLite file"),
        ("runs/store.sqlite", r"STORE_URL=runs/store.sqlite is neither a SQLite file"),
        ("u:s3cret@h/d", r"STORE_URL=\(not shown\) is neither a SQLite file"),
        ("host=h password=s3cret", r"STORE_URL=\(not shown\) is neither a SQLite file"),
        ("sqlite://", "neither a SQLite file"),
        ("sqlite:////proc/none/store.sqlite", "cannot be created"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(url, part):
    with pytest.raises((SettingError, RunError), match=part) as caught:
        Store(url)
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_a_store_in_the_home_folder_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Store("sqlite:///~/here/store.sqlite").close()
    assert (tmp_path / "home" / "here" / "store.sqlite").exists() and not (tmp_path / "~").exists()


def test_a_database_that_does_not_respond_is_one_line_without_its_password():
    with pytest.raises(RunError, match="cannot be opened") as caught:
        Store("postgresql+psycopg://me:s3cret@127.0.0.1:9/none?connect_timeout=2&password=s3cret")
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_text("words " * 500)
    with pytest.raises(RunError, match="cannot be used") as caught:
        Store(f"sqlite:///{path}")
    assert "\n" not in str(caught.value)


# Gateways that end


def test_what_a_gateway_that_is_gone_left_open_is_completed_by_the_next(store_url):
    store = Store(store_url)
    add(store, "one")
    with taking_part(store, "first"), store.writing.begin() as connection:
        open_now = {"state": OPEN, "gateway": "first", "answers": None, "answered": None}
        last = EXCHANGES.c.parent.is_not(None)
        name = connection.execute(select(EXCHANGES.c.id).where(last)).scalar_one()
        connection.execute(update(EXCHANGES).where(last).values(open_now))
        pieces = [("content", 0, '"Ha"'), ("content", 1, '"lf"'), ("role", 0, '"assistant"')]
        keys = ("channel", "number", "text")
        connection.execute(
            PIECES.insert(), [{"exchange": name} | dict(zip(keys, piece, strict=True)) for piece in pieces]
        )
    assert store.conversation("one").messages[-1] == said("Half")
    with taking_part(store, "second") as completed:
        assert completed == 1
    assert store.conversation("one").messages[-1] == said("Half")
    with store.engine.begin() as connection:
        row = connection.execute(select(EXCHANGES).where(EXCHANGES.c.id == name)).mappings().one()
        assert row["state"] == "broken off" and row["answered"]
        assert connection.execute(select(PIECES)).all() == []


def test_one_gateway_at_a_time_uses_a_file(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    with (
        taking_part(store, "first"),
        pytest.raises(RunError, match="another gateway uses"),
        taking_part(store, "second"),
    ):
        pass
    with taking_part(store, "third"):
        pass
