"""What is learned from: conversations of the store or of files, whose they are, and who is held out."""

import json
import stat
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from jobs import prep_logs
from sdpo.evaluate.store import key_of
from sdpo.gateway.exchanges import rating_row
from sdpo.gateway.schema import EXCHANGES, RATINGS
from sdpo.gateway.store import Store
from sdpo.learn import collect
from sdpo.learn.stages import stage_lock
from sdpo.learn.work import Work
from sdpo.runtime import launch
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import LearnSettings
from sdpo.text.records import read_interactions
from sdpo.text.split import is_held_out
from sdpo.tiny.logged import interactions
from tests.registries import add, write_adapter

ROWS = interactions(300, seed=8)
PERSONS = {row.conversation_id: f"person-{number % 30}" for number, row in enumerate(ROWS)}


def test_persons_are_held_out_whole_and_always_the_same_ones():
    parts = collect.split(ROWS, PERSONS, 0.3, 1.0)
    assert parts.by == "person" and len(parts.train) + len(parts.held_out) == 300
    trained, held = ({PERSONS[row.conversation_id] for row in rows} for rows in (parts.train, parts.held_out))
    assert trained and held and not trained & held and parts.persons == sorted(trained)
    later = collect.split(ROWS[:200], PERSONS, 0.3, 1.0)
    assert {PERSONS[row.conversation_id] for row in later.held_out} <= held


def test_with_few_persons_conversations_are_held_out():
    for persons in ({}, dict.fromkeys(PERSONS, "me"), {name: f"p{index % 5}" for index, name in enumerate(PERSONS)}):
        parts = collect.split(ROWS, persons, 0.3, 1.0)
        assert parts.by == "conversation" and 50 < len(parts.held_out) < 130
        assert not {row.conversation_id for row in parts.train} & {row.conversation_id for row in parts.held_out}


@pytest.mark.parametrize("owner", [None, "me"])
def test_the_branches_of_a_conversation_are_held_out_together(owner):
    """They share a prompt, so one that is trained on would spoil the other's evaluation."""
    names = [f"c{number // 2}" + ("~2" if number % 2 else "") for number in range(200)]
    rows = [replace(row, conversation_id=name) for row, name in zip(ROWS, names, strict=False)]
    parts = collect.split(rows, dict.fromkeys(names, owner or ""), 0.3, 1.0)
    trained, held = ({row.conversation_id.partition("~")[0] for row in one} for one in (parts.train, parts.held_out))
    assert len(held) > 20 and len(trained) > 20 and not trained & held


def test_nobody_gives_more_than_a_share_and_the_last_ones_stay():
    persons = {name: "loud" if index < 150 else person for index, (name, person) in enumerate(PERSONS.items())}
    parts = collect.split(ROWS, persons, 0.2, 0.1)
    whole = collect.split(ROWS, persons, 0.2, 1.0)
    loud = [row for row in parts.train if persons[row.conversation_id] == "loud"]
    assert parts.by == "person" and parts.capped == len(whole.train) - len(parts.train) > 50
    assert len(loud) == int(0.1 * len(parts.train))
    assert loud == [row for row in whole.train if persons[row.conversation_id] == "loud"][-len(loud) :]
    counts = Counter(persons[row.conversation_id] for row in parts.train)
    assert max(counts.values()) == len(loud)
    # Of few persons a tenth each would leave next to nothing.
    few = {name: f"p{index % 12}" if index < 240 else "loud" for index, name in enumerate(PERSONS)}
    counts = Counter(few[row.conversation_id] for row in collect.split(ROWS, few, 0.2, 0.1).train)
    assert 0.1 < max(counts.values()) / counts.total() <= 2 / len(counts)
    # One's own chats are not limited: there is nobody else.
    assert collect.split(ROWS, dict.fromkeys(PERSONS, "me"), 0.2, 0.1).capped == 0


@given(st.lists(st.integers(0, 40), min_size=40, max_size=120), st.floats(0.05, 0.9))
def test_nothing_is_lost_or_doubled(owners, share):
    rows = ROWS[: len(owners)]
    persons = {row.conversation_id: f"p{owner}" if owner else "" for row, owner in zip(rows, owners, strict=True)}
    parts = collect.split(rows, persons, share, 1.0)
    assert sorted(row.id for row in [*parts.train, *parts.held_out]) == sorted(row.id for row in rows)


@given(st.lists(st.integers(1, 40), min_size=20, max_size=120), st.floats(0.05, 0.9))
def test_a_person_who_is_held_out_is_never_trained_on(owners, share):
    """Not on a night either that has only what earlier nights left: they learned from everybody else."""
    everybody = {f"before-{number}": f"p{number}" for number in range(1, 41)}
    rows = ROWS[: len(owners)]
    persons = {row.conversation_id: f"p{owner}" for row, owner in zip(rows, owners, strict=True)}
    parts = collect.split(rows, everybody | persons, share, 1.0)
    assert not any(is_held_out(persons[row.conversation_id], share) for row in parts.train)
    left = [row for row in ROWS if is_held_out(PERSONS[row.conversation_id], 0.2)]
    assert left and collect.split(left, PERSONS, 0.2, 1.0).train == []


def test_a_night_has_something_to_learn_if_something_was_added_since_the_last(tmp_path):
    """Those who are held out stay unused for ever, and are no reason to learn again."""
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    store, started = Store(url), time.time() - 3600
    said = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    for name in ("trained", "held-out"):
        store.add_conversation(said, id=name, user=name, started_at=started - 100)
    registry = tmp_path / "registry"
    data = {"collected": collect.facts_of(store, ["trained"], started, key_of({}))}
    add(registry, write_adapter(tmp_path / "adapter", 1), data=data)
    store.mark_used(["trained"], "v0001", started)
    folder = RunDirectory(tmp_path / "night")
    folder.path.mkdir()

    def outcome(**given):
        folder.write_json("run.json", {"identity": given})
        settings = LearnSettings(registry=registry, **{"store_url": url} | given)
        with stage_lock(folder.path) as lock:
            work = Work(settings, folder, lock)
            work.data.mkdir(exist_ok=True)
            return work.collect_stage().get("outcome")

    assert outcome() == "nothing new"
    assert outcome(train_settings="LR=1e-5") is None  # somebody tries again with other settings
    store.add_conversation(said, id="imported", started_at=5.0)  # of long ago, but not there before
    assert outcome() is None
    data = {"collected": collect.facts_of(store, ["trained", "imported"], started, key_of({}))}
    add(registry, write_adapter(tmp_path / "second", 2), data=data)
    store.mark_used(["imported"], "v0002", started)
    assert outcome() == "nothing new"
    other = Store(f"sqlite:///{tmp_path / 'other.sqlite'}")
    other.add_conversation(said, id="x", started_at=5.0)
    assert outcome(store_url=f"sqlite:///{other.path}") is None
    with store.writing.begin() as connection:
        row = dict(
            connection.execute(select(EXCHANGES).where(EXCHANGES.c.conversation == "trained")).mappings().first()
        )
        connection.execute(insert(RATINGS), rating_row(row, -1, None))
    assert outcome() is None
    assert [one.id for one in store.conversations(only_unused=True)] == ["held-out", "trained"]


def test_a_person_is_a_hash_with_the_registrys_own_key(tmp_path):
    hash_of = collect.person_hash(tmp_path / "one")
    assert hash_of("ann") == collect.person_hash(tmp_path / "one")("ann") != hash_of("bob")
    assert hash_of("ann") != collect.person_hash(tmp_path / "two")("ann") and "ann" not in hash_of("ann")
    assert stat.S_IMODE((tmp_path / "one" / ".persons.key").stat().st_mode) == 0o600


def test_conversations_of_the_store_are_written_with_ratings_and_persons(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    messages = [{"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Ho"), ("user", "No"))]
    messages.append({"role": "assistant", "content": "Yes"})
    first = store.add_conversation(messages, user="ann", ratings=[{"message": 1, "rating": -1, "comment": None}])
    second = store.add_conversation(messages[:2], user="")
    store.mark_used([second], "v0001")
    counts = collect.write_conversations(store, tmp_path, False, str.upper)
    assert counts == {"conversations": 2, "unused": [first], "replied": 1}
    rows = [json.loads(line) for line in (tmp_path / collect.CONVERSATIONS).read_text().splitlines()]
    assert collect.real_ids(tmp_path, [row["id"] for row in rows]) == [first, second]
    first, second = (row["id"] for row in rows)
    assert all("user" not in row for row in rows)  # who said it is in PERSONS alone, hashed
    by_id = {row["id"]: row["messages"] for row in rows}
    assert by_id[first][1] == {"role": "assistant", "content": "Ho", "rating": -1} and "rating" not in by_id[second][1]
    assert json.loads((tmp_path / collect.PERSONS).read_text()) == {first: "ANN", second: ""}
    assert collect.write_conversations(store, tmp_path, True, str.upper)["conversations"] == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_persons_of_json_lines_are_read_and_what_is_no_json_is_left_to_the_preparation(tmp_path, encoding):
    lines = ['{"id": "a", "user": "ann", "messages": []}', "{", "[1]", '{"conversation_id": "b", "user_id": "bob"}']
    (tmp_path / "in").mkdir()
    text = "\n".join([*lines, '{"id": "c"}', '{"id": 7, "user": "x"}', '{"id": "d", "user": 12}'])
    (tmp_path / "in" / "one.jsonl").write_bytes(text.encode(encoding))
    (tmp_path / "in" / "bad.jsonl").write_bytes(b"\xff\xfe\x00\xd8")
    (tmp_path / "in" / "two.json").write_text("[]")
    (key := tmp_path / "key").write_text("secret")
    assert collect.write_persons_of_input(tmp_path / "in", tmp_path, str.upper, key) == 4
    assert json.loads((tmp_path / collect.PERSONS).read_text()) == {"a": "ANN", "b": "BOB", "7": "X", "d": "12"}


def test_persons_of_files_are_found_again_where_the_preparation_replaces_an_id(tmp_path):
    logs = tmp_path / "logs.jsonl"
    said = [("user", "hi"), ("assistant", "ho"), ("user", "why?"), ("assistant", "so"), ("user", "ah")]
    messages = [{"role": role, "content": text} for role, text in said]
    names = {"thread_S3cr3tKqPz81LmNw7Rt5YuVb": "ann", "bob@mail.example": "bob", "plain": "cy"}
    rows = [{"id": name, "user": user, "messages": messages} for name, user in names.items()]
    lines = [row | {"messages": [*messages, {"role": "user", "content": row["user"]}]} for row in rows]
    logs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (key := tmp_path / "key").write_text("secret\n")
    assert collect.write_persons_of_input(logs, tmp_path, str.upper, key) == 3
    persons = json.loads((tmp_path / collect.PERSONS).read_text())
    prepared = tmp_path / "prepared"
    given = ["--input", str(logs), "--id-key", str(key), "--out-dir", str(prepared), "--model", ""]
    assert launch.main(prep_logs.JOB, given) == 0
    ids = {row.conversation_id for row in read_interactions(prepared / "logs_interactions.jsonl", "")}
    assert ids == set(persons) and persons["plain"] == "CY"
    assert not any(secret in "".join(ids) for secret in ("thread", "bob", "["))
    # With another key nobody can tell from the hash whose the conversation is.
    (other := tmp_path / "other").write_text("another")
    collect.write_persons_of_input(logs, tmp_path, str.upper, other)
    assert ids & set(json.loads((tmp_path / collect.PERSONS).read_text())) == {"plain"}


def test_a_store_that_does_not_exist_is_not_made(tmp_path):
    with pytest.raises(Exception, match=r"nothing\.sqlite") as caught:
        collect.open_store(replace(LearnSettings(), store_url=f"sqlite:///{tmp_path / 'nothing.sqlite'}"))
    assert "\n" not in str(caught.value) and not (tmp_path / "nothing.sqlite").exists()
