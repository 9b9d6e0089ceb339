"""The preparation jobs with a local server as the hub: what they request, and that they read the hub's files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import prep_helpsteer, prep_tldr, prep_wildchat, prep_wildfeedback
from sdpo.runtime import launch
from sdpo.tiny import WORLD_DIR
from tests.commands import clean_environment
from tests.data_hub import DataHub
from tests.preparation import OUTPUTS, name_of, report_of, write

pytestmark = pytest.mark.usefixtures("empty_folder")


def from_hub(hub, module, *arguments):
    environment = clean_environment(HF_ENDPOINT=hub.url, HF_HOME=str(Path("cache").resolve()), HF_HUB_OFFLINE="0")
    command = [sys.executable, "-m", module.JOB.module_name, "--out-dir", "out", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_tldr_is_downloaded_from_the_parquet_conversion():
    for split in ("train", "validation"):
        (shipped,) = (WORLD_DIR / "data" / "tldr").glob(f"{split}*")
        path = Path("conversion/comparisons") / split / "0000.parquet"
        path.parent.mkdir(parents=True)
        shutil.copy(shipped, path)
    write(Path("conversion/axis/test/0000.parquet"), [{"other": 1}])
    Path("main").mkdir()
    Path("main/summarize_from_feedback.py").write_text("raise SystemExit('a loading script was run')")
    Path("main/README.md").write_text("---\nlicense: mit\n---\n")
    revisions = {"main": Path("main").resolve(), "refs/convert/parquet": Path("conversion").resolve()}
    with DataHub("openai/summarize_from_feedback", revisions) as hub:
        done = from_hub(hub, prep_tldr)
    assert done.returncode == 0, done.stderr
    assert not any(name.endswith("script.py") for name in hub.asked)
    local = launch.main(prep_tldr.JOB, ["--tiny", "--out-dir", "local"])
    assert local == 0
    for name in OUTPUTS[prep_tldr]:
        assert Path("out", name).read_bytes() == Path("local", name).read_bytes()
    report = report_of(Path("out"))
    assert (report["source"], report["revision"]) == ("openai/summarize_from_feedback", "refs/convert/parquet")
    assert report["commit"] == hub.commits["refs/convert/parquet"]


HUB_FILES = {
    prep_helpsteer: ("nvidia/HelpSteer2", "", ["train.jsonl.gz", "validation.jsonl.gz"]),
    prep_wildfeedback: (
        "microsoft/WildFeedback",
        "---\nconfigs:\n- config_name: other\n  data_files: other.json\n"
        "- config_name: wildfeedback\n  data_files: wildfeedback.json\n---\n",
        ["wildfeedback.json"],
    ),
    prep_wildchat: ("allenai/WildChat", "", ["data/train-00000-of-00001.parquet"]),
}


@pytest.mark.parametrize("module", HUB_FILES, ids=name_of)
def test_the_other_sources_are_downloaded_at_their_pinned_revisions(module):
    from sdpo.data.sources import SOURCES

    repository, card, names = HUB_FILES[module]
    shipped = sorted((WORLD_DIR / "data" / module.JOB.name.removeprefix("prep-")).iterdir())
    for name, shipped_path in zip(names, shipped, strict=True):
        path = Path("hub", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped_path, path)
    Path("hub/README.md").write_text(card)
    Path("hub/other.json").write_text("[]")
    with DataHub(repository, {SOURCES[module.JOB.name].revision: Path("hub").resolve()}) as hub:
        done = from_hub(hub, module)
    assert done.returncode == 0, done.stderr
    assert launch.main(module.JOB, ["--tiny", "--out-dir", "local"]) == 0
    for name in OUTPUTS[module]:
        assert Path("out", name).read_bytes() == Path("local", name).read_bytes()


def test_errors_of_the_hub_are_one_line():
    with DataHub("openai/summarize_from_feedback", {"main": WORLD_DIR}, token="right") as hub:
        refused = from_hub(hub, prep_tldr)
        hub.token = None
        missing = from_hub(hub, prep_tldr)
        without_files = from_hub(hub, prep_tldr, "--revision", "main")
    unreachable = from_hub(hub, prep_tldr)
    for done, words, code in (
        (refused, ["gated", "HF_TOKEN", "SOURCE"], 1),
        (missing, ["refs/convert/parquet", "REVISION"], 1),
        (without_files, ["at main", "REVISION"], 1),
        (unreachable, ["cannot be reached", "SOURCE"], 3),
    ):
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == 1 and all(word in done.stderr for word in words), done.stderr
