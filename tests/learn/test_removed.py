"""A night that goes on does not learn from what was removed from the store since it collected."""

import pytest

from sdpo.gateway.retention import forget
from sdpo.gateway.store import Store
from sdpo.learn.collect import CONVERSATIONS, HELD_OUT, TRAIN
from sdpo.learn.night import Night
from sdpo.learn.stages import StageFailed, stage_lock
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import LearnSettings
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


def found(tmp_path, text):
    files = [tmp_path / "night" / "data" / name for name in (CONVERSATIONS, TRAIN, HELD_OUT)]
    return [path.name for path in files if text in path.read_text()]


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
