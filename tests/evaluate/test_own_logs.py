"""An evaluation of a run on one's own logs: its prompts, what is judged by, its checkpoints, and what is missing."""

import dataclasses
import json
from dataclasses import replace

import pytest

from jobs import eval as eval_job
from jobs import eval_helpsteer
from sdpo.evaluate.prompts import (
    conversation,
    evaluation_prompts,
    holds_interactions,
    judged_persona,
    trained_conversations,
)
from sdpo.evaluate.trained_run import chosen_checkpoints, fill, read_run
from sdpo.runtime import launch
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings.resolve import resolve
from sdpo.text.prompts import FOLLOW_UP_PERSONA
from sdpo.text.records import Prompt, interaction_lines, prompt_lines
from sdpo.text.split import is_held_out
from sdpo.tiny import MODEL_DIR, logged
from tests.servers import Answer, FakeServer, prompt_of

LOGS = logged.interactions(40, seed=5)


def write_logs(path, rows=LOGS):
    path.write_text("".join(interaction_lines(rows)), "utf-8")
    return path


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_logs(tmp_path / "logs.jsonl")


def offline_run(folder, **settings):
    """Create the directory of a finished offline run on the logs, with two checkpoints that are only marked."""
    folder.mkdir()
    values = {"model": str(MODEL_DIR), "style": None, "holdout": 0.0, "max_context_tokens": 777} | settings
    started = {"job": "train-offline", "system_prompt": "", "prompt_suffix": "", "settings": values}
    directory = RunDirectory(folder)
    directory.write_json("run.json", started)
    for step in (20, 40):
        (folder / f"checkpoint-{step}").mkdir()
        directory.mark_complete(step)
    return folder


def resolved(run, *flags, job=eval_helpsteer.JOB):
    arguments = ["--run-dir", str(run), *flags]
    settings = resolve(job.settings, arguments, job=job.name, defaults=job.defaults, tiny=job.tiny, environment={})
    return fill(settings, job)


@pytest.mark.parametrize(
    ("flags", "gpus", "used"), [((), 0, 1), ((), 1, 1), ((), 3, 3), ((), 8, 4), (("--gpus", "4"), 1, 4)]
)
def test_by_default_an_evaluation_takes_no_more_processes_than_there_are_gpus(
    flags, gpus, used, logs, tmp_path, monkeypatch
):
    """The command that a run of one process ends with does not name GPUS, and the figures are the same with any."""
    monkeypatch.setattr("sdpo.evaluate.trained_run.visible_gpus", lambda: [str(number) for number in range(gpus)])
    assert resolved(offline_run(tmp_path / "run", train_jsonl=str(logs)), *flags).world_size == used


def test_the_runs_own_interactions_are_the_prompts_and_each_follow_up_is_judged_by(logs, tmp_path):
    run = offline_run(tmp_path / "run", train_jsonl=str(logs))
    settings = resolved(run)
    assert settings.val_jsonl == logs and settings.max_prompt_tokens == 777
    assert judged_persona(settings, read_run(run)) is None
    prompts = evaluation_prompts(settings, read_run(run), eval_helpsteer.JOB)
    assert [prompt.messages for prompt in prompts] == [row.prompt for row in LOGS]
    for prompt, row in zip(prompts, LOGS, strict=True):
        assert prompt.persona == FOLLOW_UP_PERSONA.format(follow_up=row.user_response)
        assert prompt.text == row.prompt[-1]["content"] and prompt.conversation == row.conversation_id
    trained = trained_conversations(read_run(run), eval_helpsteer.JOB)
    assert trained == {conversation(prompt.messages) for prompt in prompts}


def test_validation_interactions_come_first_and_held_out_conversations_before_trained_ones(logs, tmp_path):
    other = write_logs(tmp_path / "validation.jsonl", LOGS[:3])
    run = offline_run(tmp_path / "run", train_jsonl=str(logs), val_jsonl=str(other), holdout=0.4)
    assert len(evaluation_prompts(resolved(run), read_run(run), eval_helpsteer.JOB)) == 3
    given = resolved(run, "--data-path", str(logs))
    ids = {prompt.id for prompt in evaluation_prompts(given, read_run(run), eval_helpsteer.JOB)}
    assert ids == {row.id for row in LOGS if is_held_out(row.conversation_id, 0.4)} and 0 < len(ids) < 40
    trained = {conversation(row.prompt) for row in LOGS if not is_held_out(row.conversation_id, 0.4)}
    assert trained_conversations(read_run(run), eval_helpsteer.JOB) == trained


def test_a_prompt_was_trained_on_if_all_of_its_turns_were(logs, tmp_path):
    def turns(first, system="Be brief."):
        texts = (("system", system), ("user", first), ("assistant", "Yes."), ("user", "Go on."))
        return [{"role": role, "content": text} for role, text in texts]

    rows = [replace(LOGS[0], prompt=turns("Tell me of cats."))]
    run = offline_run(tmp_path / "run", train_jsonl=str(write_logs(tmp_path / "train.jsonl", rows)))
    trained = trained_conversations(read_run(run), eval_helpsteer.JOB)
    assert conversation(turns("Tell me of cats.", system="Be kind.")) in trained
    assert conversation(turns("Tell me of dogs.")) not in trained


def test_files_of_mix_were_trained_on_too(logs, tmp_path):
    mixed = write_logs(tmp_path / "mixed.jsonl", logged.interactions(30, seed=6))
    run = offline_run(tmp_path / "run", train_jsonl=str(logs), mix=f"{mixed}=0.3", holdout=0.4)
    rows = [*LOGS, *logged.interactions(30, seed=6)]
    trained = {conversation(row.prompt) for row in rows if not is_held_out(row.conversation_id, 0.4)}
    assert trained_conversations(read_run(run), eval_helpsteer.JOB) == trained
    given = resolved(run, "--data-path", str(mixed))
    used = [prompt.id for prompt in evaluation_prompts(given, read_run(run), eval_helpsteer.JOB)]
    assert used == [row.id for row in rows[len(LOGS) :] if is_held_out(row.conversation_id, 0.4)] != []


def test_files_that_are_recorded_by_a_relative_path_are_found_from_elsewhere(logs, tmp_path, monkeypatch):
    run = offline_run(tmp_path / "run", train_jsonl=logs.name, holdout=0.4)
    written = json.loads((run / "run.json").read_text())
    monkeypatch.chdir(logs.parent)
    trained = trained_conversations(read_run(run), eval_helpsteer.JOB)
    used = evaluation_prompts(resolved(run), read_run(run), eval_helpsteer.JOB)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert trained_conversations(read_run(run), eval_helpsteer.JOB) is None  # a run that did not record its folder
    (run / "run.json").write_text(json.dumps(written | {"folder": str(logs.parent)}))
    assert trained_conversations(read_run(run), eval_helpsteer.JOB) == trained
    assert resolved(run).val_jsonl == logs
    again = evaluation_prompts(resolved(run), read_run(run), eval_helpsteer.JOB)
    assert [one.id for one in again] == [one.id for one in used] and 0 < len(used) < 40


def test_the_model_that_a_run_started_from_is_found_from_elsewhere(logs, tmp_path, monkeypatch):
    (logs.parent / "models" / "mine").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for model, found in (("models/mine", str(logs.parent / "models/mine")), ("owner/name", "owner/name")):
        run = offline_run(tmp_path / model.partition("/")[2], train_jsonl=str(logs), model=model)
        written = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(written | {"folder": str(logs.parent)}))
        monkeypatch.chdir(logs.parent)
        assert read_run(run).model == model
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert read_run(run).model == found and resolved(run).baseline == found


def test_a_style_is_judged_by_where_one_is_given(logs, tmp_path):
    run = offline_run(tmp_path / "run", train_jsonl=str(logs))
    settings = resolved(run, "--style", "no_emojis")
    personas = {prompt.persona for prompt in evaluation_prompts(settings, read_run(run), eval_helpsteer.JOB)}
    assert personas == {judged_persona(settings, read_run(run))} and "emoji" in str(personas)


def test_prompts_and_interactions_are_told_apart(logs, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(prompt_lines([Prompt("a", "Hello?")])), "utf-8")
    assert holds_interactions(logs) and not holds_interactions(prompts)
    logs.write_bytes(logs.read_text("utf-8").encode("utf-8-sig"))  # as Notepad saves it
    assert holds_interactions(logs)
    for name, content in (("empty", ""), ("list", "[1]\n"), ("cut", '{"prompt": ['), ("bytes", "\x00\n")):
        (tmp_path / name).write_text(content)
        assert not holds_interactions(tmp_path / name)
    assert not holds_interactions(tmp_path / "none")


def test_everything_that_is_missing_is_said_at_once(logs, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    run = offline_run(tmp_path / "run", train_jsonl=str(tmp_path / "gone.jsonl"))
    flags = ["--run-dir", str(run), "--gpus", "1", "--ckpts", "3", "--baseline", str(tmp_path)]
    assert launch.main(eval_job.JOB, flags) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "5 things" in error
    for name in ("checkpoint", "STYLE", "DATA_PATH", "validation.jsonl", "ANTHROPIC_API_KEY", "BASELINE"):
        assert name in error
    (tmp_path / "raw.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    assert launch.main(eval_job.JOB, [*flags, "--style", "brief", "--data-path", "raw.jsonl"]) == 2
    error = capsys.readouterr().err
    assert "make prep-logs" in error and "raw.jsonl, line 1" in error
    # One thing alone is said as before.
    alone = ["--run-dir", str(run), "--gpus", "1", "--data-path", str(logs)]
    assert launch.main(eval_job.JOB, alone) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: JUDGE_MODEL=") and "things" not in error


def test_nothing_is_missing_with_a_judge(logs, tmp_path, capsys):
    run = offline_run(tmp_path / "run", train_jsonl=str(logs))
    flags = ["--run-dir", str(run), "--gpus", "1", "--judge-model", str(MODEL_DIR), "--dry-run"]
    assert launch.main(eval_job.JOB, flags) == 0
    assert "note:" not in capsys.readouterr().out


# Checkpoints


def stopped(run, levels):
    directory = RunDirectory(run)
    directory.write_json("summary.json", {"stopped_by_guard": {"step": 40, "reasons": ["x"]}, "best_checkpoint": None})
    directory.write_rows("guard.jsonl", [{"step": step, "level": level} for step, level in levels.items()])


@pytest.mark.parametrize(
    ("levels", "flags", "steps"),
    [
        (None, [], [20, 40]),  # without any of the default steps, all
        ({20: 0, 40: 2}, [], [20]),
        ({20: 0, 40: 1}, [], [20]),
        ({20: 0, 40: 2}, ["--ckpts", "40"], [40]),
        ({20: 0, 40: 2}, ["--ckpts", "all"], [20, 40]),
        ({20: 1, 40: 2}, [], None),
        ({20: 1, 40: 2}, ["--ckpts", "20 40"], [20, 40]),
    ],
)
def test_by_default_nothing_that_the_guard_warned_of_is_evaluated(levels, flags, steps, logs, tmp_path):
    from sdpo.errors import RunError

    run = offline_run(tmp_path / "run", train_jsonl=str(logs))
    if levels:
        stopped(run, levels)
    settings = resolved(run, *flags)
    if steps is None:
        with pytest.raises(RunError, match="none is good to use"):
            chosen_checkpoints(settings, read_run(run))
    else:
        assert list(chosen_checkpoints(settings, read_run(run))) == steps


# The whole way


@pytest.mark.slow
def test_an_offline_run_is_evaluated_by_its_own_follow_ups(logs, tmp_path, capsys):
    """A judge behind HTTP prefers what the follow-up asks for, and sees the follow-up of the prompt in each request."""
    from tests.evaluations import DONE, add_checkpoint

    earlier = [{"role": "user", "content": "Hi there!"}, {"role": "assistant", "content": "What is it?"}]
    write_logs(logs, [dataclasses.replace(row, prompt=[row.prompt[0], *earlier, row.prompt[-1]]) for row in LOGS])
    run = offline_run(tmp_path / "run", train_jsonl=str(logs))
    (run / "checkpoint-20" / "complete.json").unlink()
    (run / "checkpoint-20").rmdir()
    (run / "checkpoint-40" / "complete.json").unlink()
    (run / "checkpoint-40").rmdir()
    add_checkpoint(run, 40, noise=0.02)
    shown = []

    def judge(body, number):
        shown.append(json.dumps(body["messages"], ensure_ascii=False))
        return Answer(json.dumps({"verdict": "A" if len(prompt_of(body)) % 2 else "B"}))

    with FakeServer(judge) as server:
        code = launch.main(
            eval_job.JOB,
            ["--run-dir", str(run), "--gpus", "1", "--judge-model", "somebody", "--judge-url", server.url,
             "--max-completion-tokens", "16", "--concurrency", "4", "--judge-truth", "0"],
        )  # fmt: skip
    output = capsys.readouterr()
    assert code in DONE, output.err
    report = json.loads((run / "eval" / "eval.json").read_text())
    assert report["rows"][0]["prompts"] == 40  # fewer than the default EVAL_N
    assert any("40 of the 40 prompts are in the run's training file" in text for text in report["warnings"])
    assert shown and all(any(row.user_response in text for row in LOGS) for text in shown)
    assert all("User: Hi there!" in text and "Assistant: What is it?" in text for text in shown)
    assert "follow-up" in (run / "eval" / "pairs.html").read_text("utf-8")
