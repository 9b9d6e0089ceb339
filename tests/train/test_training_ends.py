"""What stops a run or keeps it from starting (losses that are not finite, refused settings), and its model card."""

import dataclasses
import json
import shlex
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from sdpo.errors import BudgetReached, LossNotFinite, ServerError, SettingError
from sdpo.llm import RequestRefused
from sdpo.runtime import processes
from sdpo.runtime.commands import resume_command
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import OnlineSettings
from sdpo.settings.resolve import resolve
from sdpo.study import run as study
from sdpo.tiny.users import OracleUser
from sdpo.train.callbacks import GracefulStop
from sdpo.train.job import check_objective, run_session
from sdpo.train.model_card import card
from sdpo.train.session import Session

pytestmark = pytest.mark.slow


def settings(**values):
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return resolve(OnlineSettings, flags, job="a-job", environment={})


def test_a_loss_that_is_not_finite_stops_training_and_names_the_row(tmp_path):
    trainer = study.build_trainer(str(tmp_path), "live", 0, 2, OracleUser({"emoji": False}))
    teacher_targets = trainer.hindsight.teacher_targets

    def with_nan(*arguments):
        targets = teacher_targets(*arguments)
        targets[3].logps_T[1] = torch.nan
        return targets

    trainer.hindsight.teacher_targets = with_nan
    with pytest.raises(LossNotFinite) as caught:
        trainer.train()
    assert caught.value.step == 1 and len(caught.value.rows) == 1
    row = caught.value.rows[0]
    assert row["signal"].count("nan") == 1 and len(row["signal"]) == len(row["completion_ids"])
    assert row["prompt"] and row["completion"] and row["follow_up"]
    assert json.loads(json.dumps(row)) == row


def test_rows_that_are_not_finite_are_written_and_the_message_names_the_file(tmp_path):
    trainer = SimpleNamespace(accelerator=SimpleNamespace(process_index=0))
    session = SimpleNamespace(run_dir=RunDirectory(tmp_path), trainer=trainer)
    error = Session._not_finite_error(session, LossNotFinite(7, [{"prompt": "p"}]))
    assert "not-finite-0.json" in str(error) and "step 7" in str(error) and "\n" not in str(error)
    assert json.loads((tmp_path / "not-finite-0.json").read_text())["rows"] == [{"prompt": "p"}]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"objective": "full", "clip_signal": 1}, "CLIP_SIGNAL"),
        ({"objective": "full", "clip": 0.1}, "CLIP"),
        ({"direction": "jsd"}, "DIRECTION"),
        ({"objective": "full", "top_k": 5}, "TOP_K"),
        ({"ema_rate": 0.1}, "EMA_RATE"),
        ({"content_weight": 0.1}, "CONTENT_WEIGHT is for LEARN_FROM=complaints"),
        ({"content_weight": 0.1, "learn_from": "complaints"}, "which TEACHER=live says as the policy does"),
        ({"rehearsal_jsonl": Path(__file__)}, "REHEARSAL_JSONL is for REHEARSAL above 0"),
        ({"contrast_strength": 2}, "CONTRAST_STRENGTH"),
        ({"contrast_margin": 0.5}, "CONTRAST_MARGIN"),
        ({"contrast_plausibility": 0.1, "objective": "full"}, "CONTRAST_PLAUSIBILITY is for NULL_CONTRAST"),
        ({"contrast_plausibility": 0.1, "null_contrast": 1}, "CONTRAST_PLAUSIBILITY compares"),
        ({"null_follow_up": "Fine."}, "NULL_FOLLOW_UP"),
        ({"adapter": "qlora", "teacher": "ema"}, "TEACHER=ema"),
        ({"adapter": "lora", "lora_targets": "q_proj,lm_head"}, "LORA_TARGETS"),
        ({"merge_adapter": 1}, "MERGE_ADAPTER"),
        ({"lora_rank": 8}, "LORA_RANK"),
        ({"lora_targets": "all-linear"}, "LORA_TARGETS"),
    ],
)
def test_settings_that_have_no_effect_or_do_harm_are_refused(values, named):
    with pytest.raises(SettingError, match=named):
        check_objective(settings(**values))


@pytest.mark.parametrize(
    "values",
    [{}, {"objective": "top_k", "top_k": 5, "direction": "jsd"}, {"teacher": "ema", "ema_rate": 0.1},
     {"adapter": "qlora", "teacher": "frozen", "merge_adapter": 1}],
)  # fmt: skip
def test_compatible_settings_are_accepted(values):
    check_objective(settings(**values))


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"simulator_url": "http://gpu7:8000/v1"}, "SIMULATOR_URL=http://gpu7:8000/v1"),
        ({"simulator_url": "https://me:secret@gpu7/v1"}, "SIMULATOR_URL=https://gpu7/v1"),
    ],
)
def test_the_command_to_resume_has_the_users_server_and_no_secret(values, shown):
    run = settings(run_id="mine", **values)
    sources = run.sources | {"simulator_api_key": "environment"}
    run = dataclasses.replace(run, simulator_api_key="secret", sources=sources)
    command = resume_command(run, "train-online-tldr")
    assert shown in shlex.split(command) and "secret" not in command and "RUN_ID=mine" in command


def test_the_command_to_resume_leaves_out_a_server_that_ends_with_the_job(monkeypatch):
    monkeypatch.setenv(processes.OWN_SIMULATOR_VARIABLE, "1")
    run = settings(run_id="mine", simulator_url="http://127.0.0.1:4567/v1")
    assert "SIMULATOR_URL" not in resume_command(run, "train-online-tldr")


class Refused:
    """A run whose server refuses every request."""

    def __init__(self, error: ServerError | BudgetReached) -> None:
        self.error, self.saved = error, False

    def run(self) -> bool:
        raise self.error

    def save_now(self) -> None:
        self.saved = True


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (ServerError("down."), "resume with: make x SIMULATOR_URL=http://gpu7/v1 MAX_COST=1.0 RUN_ID=mine"),
        (BudgetReached("spent."), "resume with: make x SIMULATOR_URL=http://gpu7/v1 RUN_ID=mine MAX_COST=..."),
        (
            RequestRefused("key.", "SIMULATOR_API_KEY"),
            "resume with: make x SIMULATOR_URL=http://gpu7/v1 MAX_COST=1.0 RUN_ID=mine",
        ),
        (
            RequestRefused("url.", "SIMULATOR_URL"),
            "resume with: make x MAX_COST=1.0 RUN_ID=mine SIMULATOR_URL=...",
        ),
        (
            RequestRefused("model.", "USER_MODEL_NAME_OR_PATH", "SIMULATOR_URL"),
            "A new run with another USER_MODEL_NAME_OR_PATH: make x MAX_COST=1.0 RUN_ID=mine-2 "
            "USER_MODEL_NAME_OR_PATH=... SIMULATOR_URL=...",
        ),
        (
            RequestRefused("model.", "USER_MODEL_NAME_OR_PATH", "ANTHROPIC_BASE_URL"),
            "make x SIMULATOR_URL=http://gpu7/v1 MAX_COST=1.0 RUN_ID=mine-2 USER_MODEL_NAME_OR_PATH=...",
        ),
    ],
)
def test_the_command_after_an_error_does_not_repeat_the_setting_that_was_refused(tmp_path, error, ending):
    run = settings(run_id="mine", simulator_url="http://gpu7/v1", max_cost=1)
    run = dataclasses.replace(run, output_dir=tmp_path / "mine")
    session = Refused(error)
    with pytest.raises(type(error)) as caught:
        run_session(run, SimpleNamespace(name="x"), lambda: session)
    assert session.saved and str(caught.value).startswith(f"{error} The run is saved")
    assert str(caught.value).endswith(ending)


def test_model_card():
    started = {
        "settings": {"run_id": "mine", "model": "Org/Base", "teacher": "live", "lr": 1e-6},
        "versions": {"torch": "2.0", "peft": None}, "started": "today", "commit": "abc",
    }  # fmt: skip
    figures = {"adherence": 0.5, "validity": 1.0, "mean_length": 10.0, "axes": {}, "answers": 64}
    stopped = {"step": 9, "reasons": ["too far"]}
    summary = {"before": figures, "after": figures | {"adherence": 0.875}, "steps": 9, "seconds": 12.0}
    text = card(
        "train-online-tldr", started, summary | {"stopped_by_guard": stopped, "best_checkpoint": "checkpoint-6"}
    )
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "Org/Base" and head["library_name"] == "transformers"
    for part in (
        "# mine",
        "train-online-tldr",
        "| TEACHER | live |",
        "0.500",
        "0.875",
        "too far",
        "checkpoint-6",
        "abc",
    ):
        assert part in text
    none = card("a-job", started, summary | {"stopped_by_guard": stopped, "best_checkpoint": None})
    assert "None of its checkpoints" in none and "checkpoint-" not in none
    # A local folder is not named as the base model, and a run without measurements has no figures.
    bare = card("a-job", {"settings": {"model": "/models/mine"}}, {})
    assert "base_model" not in yaml.safe_load(bare.split("---")[1]) and "sampled answers" not in bare


@pytest.mark.parametrize(("kept", "loading"), [(False, False), (True, False), (False, True), (True, True)])
def test_an_interrupted_run_names_the_command_that_resumes_it(kept, loading, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    started = dataclasses.replace(settings(lr=1e-4), run_id="mine", output_dir=tmp_path)
    if kept:
        (tmp_path / "checkpoint-5").mkdir()
        RunDirectory(tmp_path).mark_complete(5)

    def interrupted():
        raise KeyboardInterrupt

    begin = interrupted if loading else lambda: SimpleNamespace(run=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_session(started, SimpleNamespace(name="train-online-tldr"), begin)
    error = capsys.readouterr().err
    expected = "checkpoint-5 is kept; resume with: make train-online-tldr LR=0.0001 RUN_ID=mine"
    anew = "no checkpoint is written yet; begin anew with: make train-online-tldr LR=0.0001 RUN_ID=mine"
    assert error.startswith(expected if kept else anew)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_weights_alone_are_trained_on_from_and_not_resumed(adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = settings(adapter=adapter, model="tiny", save_only_model=1, run_id="mine")
    run = dataclasses.replace(run, output_dir=tmp_path / "mine")
    (checkpoint := tmp_path / "mine" / "checkpoint-5").mkdir(parents=True)
    RunDirectory(tmp_path / "mine").mark_complete(5)

    def ending(end) -> str:
        with suppress(KeyboardInterrupt):
            run_session(run, SimpleNamespace(name="x"), lambda: SimpleNamespace(run=end))
        return "".join(capsys.readouterr())

    def interrupted():
        raise KeyboardInterrupt

    whole = f"train on from them with: make x ADAPTER=none SAVE_ONLY_MODEL=1 MODEL={checkpoint} RUN_ID=mine-2"
    expected = (
        whole if adapter == "none" else "a new run: make x MODEL=tiny ADAPTER=lora SAVE_ONLY_MODEL=1 RUN_ID=mine-2"
    )
    for end in (lambda: False, interrupted):
        said = ending(end)
        assert "checkpoint-5 has the weights alone (SAVE_ONLY_MODEL=1)" in said and "resume with" not in said
        assert said.endswith(f"{expected}\n")
    with pytest.raises(ServerError) as caught:
        run_session(run, SimpleNamespace(name="x"), lambda: Refused(ServerError("down.")))
    assert "has the weights alone" in str(caught.value) and str(caught.value).endswith(expected)


def test_sigterm_ends_at_once_between_the_steps_and_after_the_step_in_training(capsys):
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop = GracefulStop(SimpleNamespace())
        with pytest.raises(SystemExit, match="143"):  # while the start model answers, or the user is tried
            signal.raise_signal(signal.SIGTERM)
        stop.requested = False
        stop.on_train_begin(None, None, None)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        stop.on_train_end(None, None, None)
        with pytest.raises(SystemExit):  # while the answers after training are measured
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0].partition(";")[0] for line in said] == [
        "stopping between the steps", "stopping after this step", "stopping between the steps",
    ]  # fmt: skip
