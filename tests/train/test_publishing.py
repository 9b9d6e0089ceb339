"""A trained model elsewhere: on the hub with its card, as GGUF, in another tracker; and no token in any log."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load

from sdpo.errors import RunError, SettingError
from sdpo.runtime.launch import main
from sdpo.settings import OnlineSettings
from sdpo.settings.resolve import resolve
from sdpo.tiny import MODEL_DIR
from sdpo.train import tracking
from sdpo.train.export import GGUF, MODELFILE, export_gguf
from sdpo.train.job import check_objective
from sdpo.train.model_card import card
from tests.commands import JOBS
from tests.upload_hub import UploadHub
from tests.worlds import environment, job_command, write_replay

TOKEN = "hf_s3cr3tThatMustNotAppear"

CONVERTER = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--outfile")
given = parser.parse_args()
config = pathlib.Path(given.model, "config.json").read_text()
pathlib.Path(given.outfile).write_text("GGUF of " + given.model)
"""


def hub_variables(hub: UploadHub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}


def train(hub: UploadHub, folder, **settings) -> subprocess.CompletedProcess:
    """Train on a few recorded interactions, and publish as the settings say."""
    replay = write_replay(folder / "replay.jsonl", 32)
    job = {"replay_jsonl": replay, "train_n": 32, "guard": "off", "report_to": "none", "push_to_hub": "me/brief"}
    return subprocess.run(
        job_command(None, folder / "run", **job | settings),
        env=environment(**hub_variables(hub)), capture_output=True, text=True, timeout=300, cwd=folder,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_ends_on_the_hub_with_its_card_and_as_gguf(tmp_path):
    llama = tmp_path / "llama.cpp"
    llama.mkdir()
    (llama / "convert_hf_to_gguf.py").write_text(CONVERTER)
    with UploadHub(TOKEN) as hub:
        done = train(hub, tmp_path, adapter="lora", eval_n=16, export="gguf", llama_cpp=llama, model_license="mit")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"uploaded to {hub.url}/me/brief" in done.stdout and hub.repositories["me/brief"]["visibility"] == "private"
    files = hub.files["me/brief"]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(files)
    assert not {"optimizer.pt", "training_args.bin", "trainer_state.json", "complete.json"} & set(files)
    saved = tmp_path / "run" / "checkpoint-2" / "adapter_model.safetensors"
    assert load(files["adapter_model.safetensors"]).keys() == load(saved.read_bytes()).keys()
    head = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (head["license"], head["library_name"]) == ("mit", "peft")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    metrics = {row["type"]: row["value"] for row in head["model-index"][0]["results"][0]["metrics"]}
    assert metrics["adherence"] == round(summary["after"]["adherence"], 4) and metrics["validity"] > 0
    assert str(tmp_path) not in files["README.md"].decode()
    merged = tmp_path / "run" / "merged"
    assert (tmp_path / "run" / GGUF).read_text() == f"GGUF of {merged}" and (merged / "model.safetensors").exists()
    assert yaml.safe_load((merged / "README.md").read_text().split("---")[1])["library_name"] == "transformers"
    assert "FROM ./model.gguf" in (tmp_path / "run" / MODELFILE).read_text()
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert TOKEN not in done.stdout + done.stderr and not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert not (tmp_path / "wandb").exists() and not (tmp_path / "run" / "wandb").exists()


@pytest.mark.slow
def test_a_hub_that_refuses_the_files_ends_the_job_in_one_line_and_the_run_is_complete(tmp_path):
    with UploadHub(TOKEN, broken="/commit/") as hub:
        done = train(hub, tmp_path)
    assert done.returncode == 3 and TOKEN not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert (
        "me/brief cannot be uploaded" in line
        and f"train-online-tldr PUSH_TO_HUB=me/brief OUTPUT_DIR={tmp_path}/run" in line
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"]


@pytest.mark.parametrize(
    ("role", "token", "words"),
    [
        ("write", "hf_other", "PUSH_TO_HUB=me/brief: the hub does not accept the token. Set HF_TOKEN"),
        ("read", TOKEN, "PUSH_TO_HUB=me/brief: the token may only read. Set HF_TOKEN"),
        ("write", "", "PUSH_TO_HUB=me/brief needs an account of the hub. Set HF_TOKEN"),
        ("write", TOKEN, ""),
    ],
)
def test_access_to_the_hub_is_checked_before_anything_is_trained(role, token, words, tmp_path):
    code = f"from sdpo.runtime.hub import check_upload\ncheck_upload('PUSH_TO_HUB', 'me/brief', {token!r} or None)"
    with UploadHub(TOKEN, role) as hub:
        given = environment(**hub_variables(hub) | {"HF_TOKEN": "", "HF_HOME": str(tmp_path)})
        done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=60)
    assert words in done.stderr and (done.returncode == 0) == (not words), done.stderr
    assert TOKEN not in done.stdout + done.stderr.replace(code, "")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "the model and its card are uploaded to me/brief, a private repository."),
        (
            ["--adapter", "lora", "--hub-public"],
            "the adapter and its card are uploaded to me/brief, a public repository.",
        ),
        (["--adapter", "lora", "--merge-adapter"], "the merged model and its card are uploaded to me/brief, a private"),
    ],
)
def test_a_dry_run_says_what_is_uploaded_also_without_a_token(monkeypatch, capsys, tmp_path, flags, words):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    given = ["--tiny", "--dry-run", "--push-to-hub", "me/brief", *flags]
    assert main(JOBS["jobs.train_online_tldr"], given) == 0
    said = capsys.readouterr().out
    assert f"note: at the end {words}" in said and "note: PUSH_TO_HUB=me/brief needs an account of the hub." in said


def settings(**values):
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return resolve(OnlineSettings, flags, job="a-job", environment={})


@pytest.mark.parametrize("name", ["brief", "me/brief/more", "me/", "https://hub/me/brief", "me/br ief"])
def test_what_is_no_repository_is_refused(name):
    with pytest.raises(SettingError, match=r"PUSH_TO_HUB.*an owner and a name, such as someone/my-model"):
        settings(push_to_hub=name)


def test_a_folder_without_the_converter_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"LLAMA_CPP.*a folder with convert_hf_to_gguf\.py in it"):
        settings(export="gguf", llama_cpp=tmp_path)


def test_settings_without_effect_are_refused(tmp_path):
    (tmp_path / "convert_hf_to_gguf.py").touch()
    for values, words in (({"llama_cpp": tmp_path}, "LLAMA_CPP is for EXPORT"), ({"hub_public": 1}, "for PUSH_TO_HUB")):
        with pytest.raises(SettingError, match=words):
            check_objective(settings(**values))


def test_the_card_names_the_data_it_was_prepared_from_and_no_folder_of_this_machine(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"source": "nvidia/HelpSteer2"}))
    values = {"train_jsonl": str(tmp_path / "train.jsonl"), "model": "/home/me/model", "adapter": "none"}
    text = card("a-job", {"settings": values}, {})
    assert yaml.safe_load(text.split("---")[1])["datasets"] == ["nvidia/HelpSteer2"]
    assert str(tmp_path) not in text and "/home/me" not in text and "| TRAIN_JSONL | train.jsonl |" in text
    (tmp_path / "report.json").write_text(json.dumps({"source": "/home/me/chats"}))
    assert "datasets" not in yaml.safe_load(card("a-job", {"settings": values}, {}).split("---")[1])


def test_the_card_names_the_base_model_if_that_is_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    (tmp_path / "qwen").mkdir()
    folders = ("models/qwen", "qwen", "./qwen", "~/qwen", "runs/one/checkpoint-2", "/home/me/qwen")
    for model, named in {"gpt2": "gpt2", "Qwen/Qwen3-4B": "Qwen/Qwen3-4B", **dict.fromkeys(folders)}.items():
        head = yaml.safe_load(card("a-job", {"settings": {"model": model}}, {}).split("---")[1])
        assert head.get("base_model") == named, model


# GGUF


def test_without_llama_cpp_the_commands_are_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    export_gguf(MODEL_DIR, tmp_path, None)
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.strip() == "git clone --depth 1 https://github.com/ggml-org/llama.cpp"
    assert second.strip() == f"python llama.cpp/convert_hf_to_gguf.py {MODEL_DIR} --outfile {tmp_path / GGUF}"
    assert (tmp_path / MODELFILE).exists()


@pytest.mark.parametrize(("adapter", "model"), [("none", "checkpoint-N"), ("lora", "merged")])
def test_a_dry_run_says_that_the_converter_is_missing(adapter, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    given = ["--tiny", "--dry-run", "--export", "gguf", "--output-dir", str(tmp_path / "run"), "--adapter", adapter]
    assert main(JOBS["jobs.train_offline"], given) == 0
    said = capsys.readouterr().out
    assert said.startswith("note: EXPORT=gguf: llama.cpp's convert_hf_to_gguf.py is neither on PATH nor in LLAMA_CPP.")
    assert "git clone --depth 1 https://github.com/ggml-org/llama.cpp\n" in said
    assert f"convert_hf_to_gguf.py {tmp_path / 'run' / model} --outfile {tmp_path / 'run' / GGUF}\n" in said
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert main(JOBS["jobs.train_offline"], given) == 0
    assert "llama.cpp" not in capsys.readouterr().out


def test_a_converter_that_fails_is_named_with_its_last_line(tmp_path, monkeypatch):
    (tmp_path / "convert_hf_to_gguf.py").write_text("raise SystemExit('No module named gguf')")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"cannot convert .*: No module named gguf\. Install its requirements"):
        export_gguf(MODEL_DIR, tmp_path, None)
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*.gguf"))


# Trackers


@pytest.mark.parametrize("name", ["trackio", "tensorboard", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_with_the_package_to_install(name, tmp_path, monkeypatch):
    given = SimpleNamespace(report_to=name, wandb_api_key=None, run_directory_path=tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for package in tracking.PACKAGES[name]:
        monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(SettingError, match=rf"REPORT_TO={name} needs the {name} package.*pip install {name}\)"):
        tracking.check_tracking(given)
    (tmp_path / f"{name}.py").write_text("")
    tracking.check_tracking(given)
    assert tracking.trackers(given) == [name]


def test_trackers_write_to_the_run_directory_unless_the_environment_says_otherwise(tmp_path, monkeypatch):
    for name in ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    import os

    monkeypatch.setattr(os, "environ", dict(os.environ))
    tracking.prepare_tracking(SimpleNamespace(report_to="mlflow", run_directory_path=tmp_path))
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "trackio")
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracking:5000"
    assert tracking.trackers(SimpleNamespace(report_to="none")) == []
