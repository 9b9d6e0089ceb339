"""Versions: added whole or not at all, with what they were made of."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from sdpo.errors import RunError, SettingError
from sdpo.registry import versions
from sdpo.tiny import MODEL_DIR
from tests.registries import KEEP, add, write_adapter
from tests.servers import until
from tests.worlds import environment


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("adapter") / "checkpoint-7", seed=1)


def test_a_version_has_its_weights_and_its_story(tmp_path, adapter):
    (adapter / "optimizer.pt").write_bytes(b"of the run alone")
    data = {"interactions": 3, "conversations": ["a", "b"], "persons": ["hash"]}
    version = add(tmp_path, adapter, run=adapter.parent, checkpoint=7, data=data, parent="v0000")
    assert version == versions.read(tmp_path, "v0001") == versions.versions(tmp_path)[0]
    folder = version.folder(tmp_path)
    assert folder == tmp_path / "versions" / "v0001" / "adapter"
    assert (folder / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    assert not (folder / "optimizer.pt").exists() and not (folder / "README.md").exists()
    written = json.loads((tmp_path / "versions" / "v0001" / "version.json").read_text())
    assert written["data"] == data and written["base"] == str(MODEL_DIR.resolve()) and written["state"] == "candidate"
    versions.check_files(tmp_path, version)


def test_fingerprints_tell_weights_apart_and_find_damage(tmp_path, adapter):
    other = write_adapter(tmp_path / "other", seed=2)
    one, two, again = (add(tmp_path / "registry", source) for source in (adapter, other, adapter))
    assert one.weights == again.weights != two.weights and [one.name, two.name] == ["v0001", "v0002"]
    path = one.folder(tmp_path / "registry") / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match="v0001"):
        versions.check_files(tmp_path / "registry", one)
    versions.check_files(tmp_path / "registry", two)


def test_the_same_checkpoint_is_added_once(tmp_path, adapter):
    one, two = (add(tmp_path, adapter, run=adapter.parent, checkpoint=7) for _ in range(2))
    assert one == two and len(versions.versions(tmp_path)) == 1
    assert add(tmp_path, adapter, run=adapter.parent, checkpoint=8).name == "v0002"


def test_a_run_that_was_trained_again_under_its_name_is_another_version(tmp_path, adapter):
    registry, source = tmp_path / "registry", tmp_path / "run" / "checkpoint-7"
    shutil.copytree(adapter, source)
    assert add(registry, source, KEEP, run=source.parent, checkpoint=7).kept
    write_adapter(source, seed=3)
    again = add(registry, source, run=source.parent, checkpoint=7)
    assert again.name == "v0002" and not again.kept and versions.read(registry, "v0001").kept
    weights = "adapter_model.safetensors"
    assert (again.folder(registry) / weights).read_bytes() == (source / weights).read_bytes()
    assert add(registry, source, run=source.parent, checkpoint=7) == again
    assert sorted(path.name for path in (registry / "versions").iterdir()) == ["v0001", "v0002"]


def test_a_whole_model_is_a_version_too(tmp_path):
    version = versions.add(tmp_path, MODEL_DIR, str(MODEL_DIR))
    assert version.kind == "model" and version.kept
    assert (version.folder(tmp_path) / "model.safetensors").stat().st_size > 1000


def test_unknown_and_broken_versions_are_one_line(tmp_path, adapter):
    add(tmp_path, adapter, KEEP)
    with pytest.raises(SettingError, match="Did you mean v0001") as caught:
        versions.read(tmp_path, "v001")
    assert "make versions" in str(caught.value)
    (tmp_path / "versions" / "v0001" / "version.json").write_text("{")
    with pytest.raises(RunError, match=r"version.json cannot be read"):
        versions.versions(tmp_path)


def test_what_a_killed_process_left_is_no_version_and_is_removed(tmp_path, adapter):
    left = tmp_path / "versions" / ".new-1" / "adapter"
    left.mkdir(parents=True)
    assert versions.versions(tmp_path) == []
    assert add(tmp_path, adapter).name == "v0001" and not left.exists()


def test_a_registry_in_use_is_waited_for_and_then_refused(tmp_path):
    with versions.locked(tmp_path):
        begun = time.monotonic()
        with pytest.raises(RunError, match="another process"), versions.locked(tmp_path, wait=0.3):
            pass
        assert time.monotonic() - begun >= 0.3
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is free again


_ADD = """
import sys
from pathlib import Path
from sdpo.registry import versions
print("ready", flush=True)
for _ in range(200):
    versions.add(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


def test_a_killed_addition_leaves_whole_versions_only(tmp_path, adapter):
    for number in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _ADD, str(tmp_path), str(adapter), str(MODEL_DIR)],
            env=environment(), stdout=subprocess.PIPE,
        )  # fmt: skip
        process.stdout.readline()
        assert until(lambda: any((tmp_path / "versions").glob("v*")), 30)
        time.sleep(0.01 + 0.013 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = versions.versions(tmp_path)
        assert found and [one.name for one in found] == [f"v{index:04d}" for index in range(1, len(found) + 1)]
        for one in found:
            versions.check_files(tmp_path, one)
