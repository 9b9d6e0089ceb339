"""A model's name is checked before anything is loaded and before a run's folder is made, in every job."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sdpo.errors import SettingError
from sdpo.settings import CommonSettings
from sdpo.settings.inputs import check_model
from sdpo.tiny import MODEL_DIR
from tests.commands import clean_environment
from tests.hub import AnyHub, Hub

JOBS = {
    "train_online_tldr": ("MODEL", {}),
    "train_offline": ("MODEL", {}),
    "simulator": ("USER_MODEL_NAME_OR_PATH", {}),
    "audit": ("MODEL", {}),
    "signal_analysis": ("MODEL", {}),
}


def start(job, hub_url, folder, **variables):
    hub = {"HF_ENDPOINT": hub_url, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "0" if hub_url else "1"}
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{job}"], cwd=folder, capture_output=True, text=True, timeout=60,
        env=clean_environment(**hub, TINY="1", WANDB_MODE="disabled", **variables),
    )  # fmt: skip


def one_line(done, code=2):
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


class Replies(AnyHub):
    """A hub that gives the same status to every request."""

    def __init__(self, status: int, code: str = "") -> None:
        self.status, self.code, self.asked = status, code, 0

    def reply(self, request, body):
        self.asked += 1
        return self.status, {"X-Error-Code": self.code} if self.code else {}, b""


@pytest.mark.parametrize("job", JOBS)
def test_a_model_that_the_hub_does_not_have_is_one_line_before_the_runs_folder(job, tmp_path):
    name, given = JOBS[job]
    with Replies(401, "RepoNotFound") as hub:
        error = one_line(start(job, hub.url, tmp_path, **{name: "Qwen/Qwen3-4BB"}, **given))
        assert f"{name}=Qwen/Qwen3-4BB does not exist on the hub" in error
        dry = start(job, hub.url, tmp_path, **{name: "Qwen/Qwen3-4BB"}, **given, DRY_RUN="1")
        assert one_line(dry) == error
    assert not [path for path in tmp_path.iterdir() if path.name != "hub"]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(403, "GatedRepo", "gated"), (404, "EntryNotFound", "config.json"), (404, "RepoNotFound", "does not exist"),
     (500, "", "does not respond"), (429, "", "does not respond")],
)  # fmt: skip
def test_the_hubs_answers_are_told_apart(status, code, words, tmp_path):
    with Replies(status, code) as hub:
        assert words in one_line(start("signal_analysis", hub.url, tmp_path, MODEL="some/model"))
        assert 1 <= hub.asked <= 2


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_without_a_network_it_is_one_line_too(address, tmp_path):
    assert "does not respond" in one_line(start("audit", address, tmp_path, MODEL="some/model"))
    dry = start("audit", address, tmp_path, MODEL="some/model", DRY_RUN="1")
    assert dry.returncode == 0 and "note: MODEL=some/model is not in the hub's cache" in dry.stdout
    assert "Its name could not be checked." in dry.stdout


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("my/model-on", "is no folder here. Did you mean my/model-one? As a hub id, it is not in the hub's cache"),
        ("my/other", "is no folder here. In my the nearest name is notes. As a hub id"),
        ("modell-one", "is no folder here. Did you mean model-one? As a hub id"),
        ("./nothing", "does not exist. In the current folder there are"),
        ("./my/model-two", "does not exist. Did you mean my/model-one?"),
        ("my", "has no config.json. There are models in it, such as my/model-one."),
        ("my/notes", "has no config.json. Give a model's folder or its hub id."),
    ],
)
def test_a_mistyped_folder_is_an_error_without_a_network_too(value, words, tmp_path):
    for name in ("my/model-one", "model-one"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "my" / "notes").mkdir()
    for dry_run in ("0", "1"):
        error = one_line(start("signal_analysis", "", tmp_path, MODEL=value, DRY_RUN=dry_run))
        assert f"MODEL={value} {words}" in error


def test_a_model_of_the_hub_may_be_named_like_a_folder_here(tmp_path):
    (tmp_path / "org" / "other").mkdir(parents=True)
    with Hub("org/model", MODEL_DIR, "hf_right") as hub:
        given = {"MODEL": "org/model", "HF_TOKEN": "hf_right", "DRY_RUN": "1"}
        assert start("signal_analysis", hub.url, tmp_path, **given).returncode == 0


def test_what_is_no_hub_id_is_refused_without_a_request(tmp_path):
    with Replies(200) as hub:
        assert "hub id" in one_line(start("signal_analysis", hub.url, tmp_path, MODEL="a b/c?"))
        assert hub.asked == 0


def test_offline_only_the_cache_counts_and_a_dry_run_says_so(tmp_path):
    error = one_line(start("signal_analysis", "", tmp_path, MODEL="some/model"))
    assert "HF_HUB_OFFLINE" in error
    dry = start("signal_analysis", "", tmp_path, MODEL="some/model", DRY_RUN="1")
    assert dry.returncode == 0 and "note: MODEL=some/model is not in the hub's cache" in dry.stdout


def test_a_token_from_dotenv_counts_in_a_dry_run(tmp_path):
    (tmp_path / ".env").write_text("HF_TOKEN=hf_right\n")
    with Hub("org/private", MODEL_DIR, "hf_right") as hub:
        assert start("signal_analysis", hub.url, tmp_path, MODEL="org/private", DRY_RUN="1").returncode == 0
        (tmp_path / ".env").write_text("HF_TOKEN=hf_wrong\n")
        assert "gated" in one_line(start("signal_analysis", hub.url, tmp_path, MODEL="org/private", DRY_RUN="1"))


def test_a_user_behind_a_url_is_not_looked_for_on_the_hub(monkeypatch):
    from sdpo.train.online import job as online

    seen = []
    for name in ("check_user", "_check_generation", "warn_of_live_collapse", "_rows_and_steps"):
        monkeypatch.setattr(online, name, lambda *_: None)
    monkeypatch.setattr(online, "read_training_prompts", lambda *_: [])
    monkeypatch.setattr(online, "check_training", lambda *_: None)
    monkeypatch.setattr(online, "check_outside", lambda settings, *models: seen.append(models))
    base = {"replay_jsonl": None, "eval_n": 0, "eval_steps": 0, "asks_user": True, "user_needs_server": True}
    base |= {"user_is_claude": False}
    base |= {"train_jsonl": None, "train_n": 0}
    for url in ("http://user/v1", None):
        online.check(SimpleNamespace(**base, simulator_url=url), SimpleNamespace(name="a-job"))
    assert seen == [("model",), ("model", "user_model_name_or_path")]


def write_shards(folder, missing=()):
    names = [f"model-{number}-of-3.safetensors" for number in (1, 2, 3)]
    for name in set(names) - set(missing):
        (folder / name).write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {f"layer{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


FAULTS = {
    "nothing": (lambda model: (model / "model.safetensors").unlink(), "it has no weights (model.safetensors)"),
    "cut": (lambda model: cut(model / "model.safetensors", -7), "model.safetensors has "),
    "no header": (lambda model: cut(model / "model.safetensors", 5), "model.safetensors is cut off or not a safetens"),
    "half a header": (lambda model: cut(model / "model.safetensors", 99), "model.safetensors is cut off or not"),
    "pointer": (
        lambda model: (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors is a pointer of Git LFS, not the weights (`git lfs pull` gets them)",
    ),
    "shard": (
        lambda model: write_shards(model, ["model-2-of-3.safetensors"]),
        "model.safetensors.index.json names model-2-of-3.safetensors, which is missing",
    ),
    "shards": (
        lambda model: write_shards(model, ["model-2-of-3.safetensors", "model-3-of-3.safetensors"]),
        "model.safetensors.index.json names model-2-of-3.safetensors and 1 more of its 3 files are missing",
    ),
    "index": (
        lambda model: (write_shards(model), (model / "model.safetensors.index.json").write_text("[]")),
        "model.safetensors.index.json is not an index of weights",
    ),
    "cut shard": (
        lambda model: (write_shards(model), cut(model / "model-3-of-3.safetensors", -1)),
        "model-3-of-3.safetensors has ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_missing_or_cut_off_are_one_line_that_names_the_file(fault, tmp_path):
    model = shutil.copytree(MODEL_DIR, tmp_path / "model")
    check_model(CommonSettings(), "model", str(model))
    damage, words = FAULTS[fault]
    damage(model)
    with pytest.raises(SettingError) as caught:
        check_model(CommonSettings(), "model", str(model))
    said = str(caught.value)
    assert said.startswith(f"MODEL={model} cannot be loaded: ") and words in said and "\n" not in said
    assert said.endswith("Copy or download the model again.")


def test_whole_shards_and_weights_of_torch_are_let_in(tmp_path):
    model = shutil.copytree(MODEL_DIR, tmp_path / "model")
    write_shards(model)
    check_model(CommonSettings(), "model", str(model))
    for path in model.glob("model*"):
        path.unlink()
    (model / "pytorch_model.bin").write_bytes(b"weights")
    check_model(CommonSettings(), "model", str(model))


@pytest.mark.parametrize("job", ["train_offline", "audit", "signal_analysis"])
def test_a_cut_model_is_noticed_in_a_dry_run_before_torch_is_imported(job, tmp_path):
    model = shutil.copytree(MODEL_DIR, tmp_path / "model")
    cut(model / "model.safetensors", -7)
    assert "model.safetensors has " in one_line(start(job, "", tmp_path, MODEL=str(model), DRY_RUN="1"))
