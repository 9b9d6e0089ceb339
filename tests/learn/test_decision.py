"""The last stage of a night: whether the version goes live, is tried, or waits; and what it was compared with."""

import pytest

from sdpo.errors import ServerError
from sdpo.learn.stages import stage_lock
from sdpo.learn.work import Work
from sdpo.registry import moves
from sdpo.registry.history import read_moves
from sdpo.registry.live import read_live
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import LearnSettings
from tests.registries import FakeVllm, add, settings, write_adapter


@pytest.fixture
def registry(tmp_path):
    for number in (1, 2):
        run = tmp_path / f"night-{number}" / "train"
        run.mkdir(parents=True)
        add(tmp_path / "registry", write_adapter(tmp_path / str(number), number), run=run, checkpoint=number)
    return tmp_path / "registry"


@pytest.fixture
def decide(tmp_path, registry):
    """Return a function that decides on v0002, which was compared with `against`."""

    def decided(against=None, **values):
        given = LearnSettings(registry=registry, unload_after=0.0, **values)
        folder = RunDirectory(tmp_path / "night-2")
        with stage_lock(folder.path) as lock:
            work = Work(given, folder, lock)
            work.journal.append({"stage": "evaluate", "inputs": "", "against": against})
            work.results |= {"evaluate": {"against": against}, "register": {"version": "v0002"}}
            return work.promote_stage()

    return decided


def test_it_goes_live_once_however_often_the_night_is_repeated(decide, registry):
    assert decide()["outcome"] == "promoted" and read_live(registry).version == "v0002"
    moved = len(read_moves(registry, read_live(registry)))
    assert decide()["outcome"] == "promoted"  # killed before its line was written
    assert len(read_moves(registry, read_live(registry))) == moved == 1


def test_it_waits_for_a_person_where_it_should(decide, registry):
    row = decide(auto_promote=False)
    assert row["outcome"] == "candidate" and "make promote VERSION=v0002" in row["sentence"] and row["exit_code"] == 0
    assert read_live(registry).version is None


def test_it_is_tried_first_where_a_share_is_given(decide, registry):
    for _ in range(2):
        assert decide(canary=0.2)["outcome"] == "canary"
    live = read_live(registry)
    assert live.version is None and (live.canary.version, live.canary.share) == ("v0002", 0.2)
    assert len(read_moves(registry, live)) == 1


def test_it_waits_while_another_is_tried(decide, registry):
    moves.promote(settings(registry, canary=0.5), "v0001")
    row = decide()
    assert row["outcome"] == "candidate" and "v0001 is no longer tried" in row["sentence"]
    assert read_live(registry).version is None


def test_it_waits_if_it_was_compared_with_what_is_no_longer_live(decide, registry):
    moves.promote(settings(registry), "v0001")
    row = decide(against=None)
    assert row["outcome"] == "candidate" and "the base model, and v0001 is live now" in row["sentence"]
    assert decide(against="v0001")["outcome"] == "promoted" and read_live(registry).version == "v0002"
    assert decide(against="v0001")["outcome"] == "promoted"  # it is compared with what it replaced, not with itself


def test_a_server_that_does_not_answer_leaves_the_night_unfinished(decide, registry):
    with FakeVllm() as server:
        server.broken = True
        with pytest.raises(ServerError, match="pointer was not moved"):
            decide(upstream=server.url)
        assert read_live(registry).version is None
        server.broken = False
        assert decide(upstream=server.url)["outcome"] == "promoted"
        assert read_live(registry).model in server.loaded
