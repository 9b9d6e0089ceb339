"""A night that goes on does not learn from what was removed from the store since it collected."""

import json
import time

import pytest

from sdpo.gateway.retention import forget
from sdpo.gateway.store import Store
from sdpo.learn.collect import CONVERSATIONS, HELD_OUT, SPLIT, TRAIN, conversations_of, real_ids
from sdpo.learn.night import Night
from sdpo.learn.stages import StageFailed, stage_lock
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import LearnSettings
from sdpo.text.records import read_interactions
from sdpo.tiny import data
from tests.learn.test_learn import messages_of
from tests.registries import add, write_adapter

USERS = ("ann", "bob", "eve")


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    for number, row in enumerate(data.logged(60, seed=5)):
        talk(store, row, USERS[number % 3], number)
    return store


def talk(store, row, user, number):
    said = [*messages_of(row), {"role": "assistant", "content": "TL;DR: noted."}]
    store.add_conversation(said, user=user, id=f"{user}-{number}", started_at=1000.0 + number)


@pytest.fixture
def run(tmp_path, store, monkeypatch):
    """Return a function that goes through collect, prepare and split, and then through the given audit."""
    given = LearnSettings(registry=tmp_path / "registry", store_url=f"sqlite:///{store.path}", min_interactions=8)
    folder = RunDirectory(tmp_path / "night")
    folder.path.mkdir()

    def fails(work):
        raise StageFailed("the judge does not respond", 3)

    def of_night(audit=fails):
        monkeypatch.setattr(Night, "audit_stage", audit)
        monkeypatch.setattr(Night, "train_stage", fails)
        with stage_lock(folder.path) as lock, pytest.raises(StageFailed):
            Night(given, folder, lock).run()
        return [row["stage"] for row in folder.read_rows("learn.jsonl")]

    return of_night


def found(tmp_path, user):
    """Return the files of the night that have a conversation of this user."""
    folder = tmp_path / "night" / "data"
    ids = {name: [json.loads(line) for line in (folder / name).open()] for name in (CONVERSATIONS, TRAIN, HELD_OUT)}
    real = {name: real_ids(folder, [row.get("conversation_id") or row["id"] for row in ids[name]]) for name in ids}
    return [name for name in real if any(one.startswith(user) for one in real[name])]


COLLECTED = ["canary", "collect", "prepare", "split"]


def test_a_night_that_was_interrupted_begins_anew_without_who_was_forgotten(tmp_path, store, run):
    assert run() == COLLECTED and len(found(tmp_path, "ann-")) >= 2
    left = tmp_path / "night" / "train"
    left.mkdir()
    (left / "summary.json").write_text('{"finished": true}')
    talk(store, data.logged(1, seed=9)[0], "new", 1)
    assert run() == COLLECTED and left.exists()  # what was only added is for the next night
    assert found(tmp_path, "new-") == []
    forget(store, "ann")
    assert run() == [*COLLECTED, "anew", *COLLECTED]
    assert found(tmp_path, "ann-") == [] and len(found(tmp_path, "bob-")) >= 2
    assert not left.exists()  # it would have been taken for this night's training
    assert len(run()) == 9


def test_conversations_with_private_ids_keep_their_persons_and_are_known_again_in_the_store(tmp_path, store, run):
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / ".persons.key").write_text("the same persons are held out in each run of this test")
    for number, row in enumerate(data.logged(120, seed=6)):
        said = [*messages_of(row), {"role": "assistant", "content": "TL;DR: noted."}]
        name = f"p{number}@example.com" if number % 2 else f"thread_{number:03d}AbCdEfGh1jKlMn0pQrStUv"
        store.add_conversation(said, user=f"user-{number % 30}", id=name, started_at=2000.0 + number)
    assert run() == COLLECTED
    folder = tmp_path / "night" / "data"
    assert json.loads((folder / SPLIT).read_text())["by"] == "person"
    ids = real_ids(folder, conversations_of(read_interactions(folder / TRAIN, "x")))
    assert set(ids) <= {one.id for one in store.conversations()} and any("@" in one for one in ids)
    store.mark_used(ids, "v0001", time.time())
    assert not set(ids) & {one.id for one in store.conversations(only_unused=True)}


def test_who_is_forgotten_while_a_stage_runs_is_not_trained_on(tmp_path, store, run):
    def audit(work):
        forget(store, "ann")
        return {"sentence": "go", "output": ""}

    assert run(audit) == [*COLLECTED, "audit", "anew", *COLLECTED, "audit"]
    assert found(tmp_path, "ann-") == [] and len(found(tmp_path, "bob-")) >= 2


def test_what_is_a_version_already_goes_on(tmp_path, store, run):
    """`make forget` names it, and its weights are there."""
    assert run() == COLLECTED
    train = tmp_path / "night" / "train"
    train.mkdir()
    add(tmp_path / "registry", write_adapter(tmp_path / "adapter", 1), run=train, checkpoint=1)
    forget(store, "ann")
    assert run() == COLLECTED
    store.mark_used(["ann-0", "bob-1"], "v0001")
    assert store.used_by("ann-0") == [] and store.used_by("bob-1") == ["v0001"]
