"""Moves of the live pointer: promote, canary, rollback, their history, and what a killed process leaves."""

from dataclasses import replace

import pytest

from sdpo.errors import RunError, ServerError, SettingError
from sdpo.registry import moves, versions
from sdpo.registry.history import Move, append_move, former, read_moves
from sdpo.registry.job import table
from sdpo.registry.live import Canary, Live, read_live, write_live
from tests.registries import KEEP, FakeVllm, add, settings, write_adapter


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [write_adapter(folder / str(seed), seed) for seed in range(3)]


@pytest.fixture
def registry(tmp_path, adapters):
    for adapter in adapters:
        add(tmp_path / "registry", adapter)
    return tmp_path / "registry"


def state(registry):
    return {version.name: version.state for version in versions.versions(registry)}


def test_versions_go_live_and_back_in_turn(registry):
    given = settings(registry)
    assert moves.promote(given, "v0001").name == "v0001"
    assert read_live(registry).model == str(registry / "versions" / "v0001" / "served")
    moves.promote(given, "v0002")
    assert state(registry) == {"v0001": "former", "v0002": "live", "v0003": "candidate"}
    assert moves.promote(given, None).name == "v0003"  # the newest candidate
    assert [moves.rollback(given) for _ in range(3)] == ["v0002", "v0001", None]
    assert state(registry) == {"v0001": "rejected", "v0002": "rejected", "v0003": "rejected"}
    live = read_live(registry)
    assert live.version is None and live.model.endswith("model")  # the base, by the name that the server has for it
    with pytest.raises(SettingError, match="nothing to roll back to"):
        moves.rollback(given)
    actions = [move.action for move in read_moves(registry, live)]
    assert actions == ["promote"] * 3 + ["rollback"] * 3


def test_rollback_by_name_skips_what_came_between(registry):
    given = settings(registry)
    for name in ("v0001", "v0002", "v0003"):
        moves.promote(given, name)
    assert moves.rollback(given, "v0001") == "v0001"
    assert moves.rollback(given) is None
    moves.promote(given, "v0002")
    assert moves.rollback(given, moves.BASE) is None
    moved = read_live(registry)
    assert moves.rollback(given, moves.BASE) is None and read_live(registry) == moved  # it is there already
    with pytest.raises(SettingError, match="v0003 cannot be rolled back to: live before was no version"):
        moves.rollback(given, "v0003")
    with pytest.raises(SettingError, match="has no version v0009"):
        moves.rollback(given, "v0009")


def test_what_is_promoted_without_a_name_is_newer_than_what_is_live_or_tried(registry):
    given = settings(registry)
    assert moves.promote(given, None).name == "v0003"
    for repeated in (given, replace(given, canary=0.1)):
        with pytest.raises(SettingError, match="no candidate that is newer than v0003, which is live") as caught:
            moves.promote(repeated, None)
        assert "VERSION=" in str(caught.value) and read_live(registry).version == "v0003"
    assert moves.promote(given, "v0001").name == "v0001"  # by its name
    moves.promote(replace(given, canary=0.1), "v0003")
    with pytest.raises(SettingError, match="no candidate that is newer than v0003, which is tried"):
        moves.promote(replace(given, canary=0.1), None)
    moves.rollback(given)
    assert moves.promote(given, None).name == "v0002"


@pytest.mark.parametrize("killed", ["reconcile", "_unload"])
@pytest.mark.parametrize("canary", [0.0, 0.1])
def test_a_promotion_without_a_name_that_was_killed_behind_its_move_goes_on(registry, monkeypatch, killed, canary):
    with FakeVllm() as server:
        given = settings(registry, server.url)
        moves.promote(given, "v0001")
        if canary:
            moves.promote(replace(given, canary=canary), "v0002")
        given = replace(given, canary=canary)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(moves, killed, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            moves.promote(given, None)
        assert moves.promote(given, None).name == "v0003"
        assert state(registry)["v0003"] == ("canary" if canary else "live")
        assert len(server.loaded) == (2 if canary else 1)
        with pytest.raises(SettingError, match="no candidate that is newer than v0003"):
            moves.promote(given, None)


def test_a_version_to_keep_back_goes_live_by_force_alone(registry, adapters):
    kept = add(registry, adapters[0], KEEP)
    with pytest.raises(SettingError, match="FORCE=1") as caught:
        moves.promote(settings(registry), kept.name)
    assert KEEP["sentence"] in str(caught.value) and read_live(registry) == Live()
    assert state(registry)[kept.name] == "kept"
    assert moves.promote(settings(registry), None).name == "v0003"  # not the one without a reason to go live
    assert moves.promote(settings(registry), kept.name, force=True).name == kept.name


def test_the_table_names_persons_where_they_are_known(registry, adapters):
    add(registry, adapters[0], data={"interactions": 838})
    add(registry, adapters[0], data={"interactions": 3, "persons": ["hash"]})
    shown = table(settings(registry))
    assert "838 interactions  " in shown and "3 interactions of 1 person " in shown and "?" not in shown


def test_a_damaged_version_does_not_go_live(registry):
    moves.promote(settings(registry), "v0001")
    (registry / "versions" / "v0002" / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match="v0002"):
        moves.promote(settings(registry), "v0002")
    assert read_live(registry).version == "v0001"


def test_a_canary_starts_goes_live_and_ends(registry):
    given = settings(registry)
    moves.promote(given, "v0001")
    moves.promote(replace(given, canary=0.1), "v0002")
    live = read_live(registry)
    assert live.version == "v0001" and live.canary.version == "v0002" and live.canary.share == 0.1
    assert state(registry)["v0002"] == "canary" and "canary: v0002 for 10%" in table(given)
    assert moves.promote(given, None).name == "v0002" and read_live(registry).canary is None
    moves.promote(replace(given, canary=0.5), None)
    assert read_live(registry).canary.version == "v0003"
    assert moves.rollback(given) == "v0002" and read_live(registry).canary is None
    assert state(registry) == {"v0001": "former", "v0002": "live", "v0003": "rejected"}
    with pytest.raises(SettingError, match="no candidate") as caught:
        moves.promote(given, None)
    assert f"make versions REGISTRY={registry} lists" in str(caught.value)
    with pytest.raises(SettingError, match="live already"):
        moves.promote(replace(given, canary=0.5), "v0002")


# With a server


def test_vllm_loads_first_then_the_pointer_moves_then_the_old_one_goes(registry):
    with FakeVllm() as server:
        given = settings(registry, server.url)
        moves.promote(given, "v0001")
        first = read_live(registry).model
        assert first.startswith("sdpo-v0001-") and server.loaded[first].endswith("v0001/adapter")
        moves.promote(given, "v0002")
        second = read_live(registry).model
        assert server.log == [
            f"load {first}", f"ask {first}", f"load {second}", f"ask {second}", f"unload {first}",
        ]  # fmt: skip
        moves.promote(replace(given, canary=0.2), "v0003")
        assert len(server.loaded) == 2  # both parts of the canary
        assert moves.rollback(given) == "v0002" and list(server.loaded) == [second]
        server.loaded["somebody-elses"] = "x"
        assert moves.rollback(given) == "v0001" and set(server.loaded) == {first, "somebody-elses"}
        assert moves.rollback(given) is None and read_live(registry).model == "base"
        assert set(server.loaded) == {"somebody-elses"}


@pytest.mark.parametrize("fault", ["refuses", "broken", "gone"])
def test_a_version_that_does_not_answer_never_goes_live(registry, fault):
    with FakeVllm() as server:
        given = settings(registry, server.url, upstream_timeout=5.0)
        moves.promote(given, "v0001")
        before = (registry / "live.json").read_bytes()
        if fault == "gone":
            given = replace(given, upstream="http://127.0.0.1:9/v1")
        else:
            setattr(server, fault, True)
        with pytest.raises(ServerError, match="pointer was not moved") as caught:
            moves.promote(given, "v0002")
        assert "\n" not in str(caught.value) and (registry / "live.json").read_bytes() == before


def test_a_whole_model_cannot_be_loaded_into_vllm(registry, tmp_path):
    from sdpo.tiny import MODEL_DIR

    version = versions.add(registry, MODEL_DIR, str(MODEL_DIR), verdict={"verdict": "promote"})
    with FakeVllm() as server, pytest.raises(SettingError, match="whole model"):
        moves.promote(settings(registry, server.url), version.name)


def test_after_a_restart_of_the_server_what_is_live_is_loaded_again_without_a_move(registry):
    with FakeVllm() as server:
        given = settings(registry, server.url)
        moves.promote(given, "v0001")
        moves.promote(given, "v0002")
        moves.promote(replace(given, canary=0.2), "v0003")
        before, loaded = (registry / "live.json").read_bytes(), dict(server.loaded)
        server.loaded.clear()  # adapters that were loaded by request are gone after a restart
        assert moves.promote(given, "v0002").name == "v0002"
        assert server.loaded == loaded and (registry / "live.json").read_bytes() == before
        assert moves.rollback(given) == "v0002"  # the canary ends
        assert moves.rollback(given) == "v0001"  # not the version that was loaded again


# The history


def test_a_move_that_did_not_happen_is_not_counted(tmp_path):
    append_move(tmp_path, Move(1, "promote", None, "v0001", None, "now"))
    append_move(tmp_path, Move(2, "promote", "v0001", "v0002", None, "now"))  # killed before the pointer moved
    write_live(tmp_path, Live("v0001", "a", move=1))
    assert [move.after for move in read_moves(tmp_path, read_live(tmp_path))] == ["v0001"]
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"number": 2, "action": "pro')  # killed while it wrote
    append_move(tmp_path, Move(2, "promote", "v0001", "v0003", None, "now"))
    write_live(tmp_path, Live("v0003", "a", move=2))
    done = read_moves(tmp_path, read_live(tmp_path))
    assert [move.after for move in done] == ["v0001", "v0003"] and former(done) == [None, "v0001"]


def test_rollback_remembers_a_stack():
    def move(action, before, after):
        return Move(0, action, before, after, None, "")

    done = [move("promote", None, "a"), move("promote", "a", "b"), move("rollback", "b", "a")]
    done.append(move("promote", "a", "c"))
    assert former(done) == [None, "a"]
    assert former([*done, move("promote", "c", "c")]) == [None, "a"]
    assert former([*done, move("rollback", "c", None)]) == []


def test_a_pointer_of_another_kind_keeps_its_canary_on_read(tmp_path):
    write_live(tmp_path, Live("v0001", "a", Canary("v0002", "b", 0.5), 1.0, 3))
    assert read_live(tmp_path).canary == Canary("v0002", "b", 0.5)
