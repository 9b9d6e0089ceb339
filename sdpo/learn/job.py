"""The learner's job: the checks, the plan of a dry run, and one night. Importing this is cheap."""

import dataclasses
import json
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo import settings as settings_module
from sdpo.english.checkers import checker_of
from sdpo.errors import RunError, SettingError
from sdpo.evaluate.judges import ORACLE, SHIPPED
from sdpo.learn import collect
from sdpo.learn.journal import FILE as JOURNAL
from sdpo.learn.journal import since_anew
from sdpo.learn.night import STAGES, Night
from sdpo.learn.stages import flags, learner_lock, stage_lock
from sdpo.learn.work import CANARY, CANDIDATE, PREPARED, PROMOTED, words
from sdpo.llm import check_claude
from sdpo.llm.health import check_health, noted_if_dry
from sdpo.registry.live import of_conversations, read_live
from sdpo.runtime.commands import command, given_to_repeat
from sdpo.runtime.ending import say
from sdpo.runtime.provenance import provenance
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import AuditSettings, CommonSettings, EvalSettings, OfflineSettings
from sdpo.settings.common import MODEL_ELSEWHERE
from sdpo.settings.inputs import check_model
from sdpo.settings.resolve import resolve
from sdpo.settings.training import RULE
from sdpo.tiny.oracle import check_style
from sdpo.users.styles import own_styles

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import LearnSettings

SUMMARY, STARTED = "learn.json", "run.json"
_ASK_SECONDS = 120.0  # for a token of the judge's server, which may have to load the model
# What may differ when a night goes on: it does not change what is learned.
_MAY_CHANGE = {"dry_run", "output_dir", "scratch", "run_id", "upstream", "upstream_kind", "upstream_timeout"}
# Those of the evaluation, which is then done again:
_MAY_CHANGE |= {"judge_model", "judge_url", "judge_api_key", "eval_settings"}
_MAY_CHANGE |= {"unload_after", "canary", "auto_promote", "max_hours"}


def fill(settings: "LearnSettings", job: "Job") -> "LearnSettings":
    """Return the settings with the name of the last night that was interrupted, if these settings are its own."""
    tiny = settings_module.source(settings, "input") == settings_module.TINY
    if tiny and "store_url" in settings_module.given(settings):
        settings = dataclasses.replace(settings, input=None)  # a store takes the place of the shipped conversations
    if settings.judge_model is None and "judge_model" not in words(settings.eval_settings):
        # What was said does not leave the house unless the user says so, as naming Claude does.
        sources = {**settings.sources, "judge_model": "MODEL"}
        settings = dataclasses.replace(settings, judge_model=shlex.quote(str(settings.model)), sources=sources)
    if settings.run_id is not None or settings.output_dir is not None:
        return settings
    nights = sorted((settings.scratch / job.folder).glob(f"*/{STARTED}"), key=lambda path: path.stat().st_mtime)
    for path in reversed(nights):
        if (path.parent / SUMMARY).exists():
            return settings  # the last night came to its end
        started = RunDirectory(path.parent).read_json(STARTED) or {}
        if started.get("identity") == identity(settings):
            sources = {**settings.sources, "run_id": "the last night"}
            return dataclasses.replace(settings, run_id=path.parent.name, sources=sources)
        return settings
    return settings


def identity(settings: "LearnSettings") -> dict[str, Any]:
    """Return what makes two nights the same: the settings that change what is learned, and the files of INPUT."""
    values = {name: value for name, value in settings_module.redacted(settings).items() if name not in _MAY_CHANGE}
    return values | ({"files": collect.input_listing(settings.input)} if settings.input else {})


def check(settings: "LearnSettings", job: "Job") -> None:
    """Check all that needs no model, and print the plan of a dry run. Raises SdpoError on the first problem."""
    if settings.input is None:
        store = collect.open_store(settings)
        store.close()
    elif settings.conversations == "unused":
        raise SettingError("CONVERSATIONS=unused is for STORE_URL: files do not say what was learned from them.")
    check_model(settings, "model", settings.model)
    _check_judge(settings)
    for name, kind in _STAGE_SETTINGS.items():
        _check_words(name, getattr(settings, name), kind)
    read_live(settings.registry)
    folder = RunDirectory(settings.run_directory_path)
    if (started := folder.read_json(STARTED)) is not None:
        _check_same(folder, started, settings)
    if settings.dry_run:
        print("\n".join(plan(settings)) + "\n", flush=True)


_STAGE_SETTINGS = {"audit_settings": AuditSettings, "train_settings": OfflineSettings, "eval_settings": EvalSettings}
_OURS = {"model", "data", "input", "out_dir", "output_dir", "run_dir", "run_id", "baseline", "train_jsonl", "tiny"}
_OURS |= {"val_jsonl", "scratch", "data_path", *MODEL_ELSEWHERE}


def _check_words(name: str, text: str, kind: type[CommonSettings]) -> None:
    """Raise SettingError for a setting that the stage does not have, that has a wrong value, or that is set here."""
    ours = next((word for word in words(text) if word in _OURS), None)
    if ours is not None:
        raise SettingError(f"{name.upper()}: {ours.upper()} is set by make learn itself. Leave it out.")
    try:
        resolve(kind, flags(words(text)), job=name, environment={}, dotenv=Path(os.devnull))
    except SettingError as error:
        raise SettingError(f"{name.upper()}: {error}") from None


def _check_judge(settings: "LearnSettings") -> None:
    """Raise SettingError for a judge or a style that the evaluation, hours later, could not use."""
    if settings.tiny and settings.style is not None:
        check_style(settings.style, own_styles(settings.style_file).get(settings.style))
    given = words(settings.eval_settings)
    judges = shlex.split(given.get("judge_model", settings.judge_model or ""))
    served = given.get("judge_url", settings.judge_url)
    for judge in judges:
        if judge in (ORACLE, RULE):
            if settings.style is None and "style" not in given:
                raise SettingError(f"JUDGE_MODEL={judge} needs a STYLE to read. Set it, or name a model.")
            if judge == RULE and not settings.tiny:
                style = given.get("style", settings.style or "")
                file = Path(given["style_file"]) if "style_file" in given else settings.style_file
                checker_of(style, own_styles(file).get(style))  # refuses a style that no rule checks
        elif judge.startswith("claude-"):
            check_claude(judge, settings.anthropic_api_key, "JUDGE_MODEL", settings.dry_run)
        elif judge == SHIPPED:
            continue
        elif served is None:
            check_model(settings, "judge_model", judge)
        else:
            key, ask = settings.judge_api_key, 0 if settings.dry_run else _ASK_SECONDS
            with noted_if_dry(settings.dry_run):
                check_health(served, judge, setting="JUDGE_URL", model_setting="JUDGE_MODEL", api_key=key, ask=ask)


def _check_same(folder: RunDirectory, started: dict[str, Any], settings: "LearnSettings") -> None:
    if (folder.path / SUMMARY).exists():
        raise RunError(f"the night in {folder.path} came to its end. Choose another RUN_ID, or leave it out.")
    before, now = started.get("identity", {}), identity(settings)
    changed = next((name for name in now if before.get(name) != now[name]), None)
    if changed == "files":
        raise RunError(f"the files of INPUT changed since the night in {folder.path} began. Choose another RUN_ID.")
    if changed is not None:
        raise RunError(
            f"the night in {folder.path} began with {changed.upper()}={before.get(changed)}, now it is {now[changed]}. "
            "Give the same settings to go on, or choose another RUN_ID."
        )


def plan(settings: "LearnSettings") -> list[str]:
    """Return the lines of a dry run: what there is to learn from, which stages are done, and what comes of it."""
    if settings.input is None:
        store = collect.open_store(settings)
        every = sum(1 for _ in store.conversations())
        unused = sum(1 for _ in store.conversations(only_unused=True))
        lines = [f"{every} conversations in the store, {unused} of them not learned from yet"]
    else:
        files = len(collect.input_listing(settings.input))
        lines = [f"INPUT={settings.input}, {files} {'file' if files == 1 else 'files'}"]
    live = read_live(settings.registry)
    lines.append(f"live: {live.version or 'the base model'}, with which a candidate is compared")
    path = settings.run_directory_path
    rows = since_anew(RunDirectory(path).read_rows(JOURNAL)) if path.exists() else []
    done = [name for name in STAGES if any(row["stage"] == name for row in rows)]
    left = [name for name in STAGES if name not in done]
    lines.append(f"stages: {' → '.join(left)}" + (f" (done before: {', '.join(done)})" if done else ""))
    if settings.canary:
        lines.append(f"a version with the verdict to promote answers {of_conversations(settings.canary)}")
    elif settings.auto_promote:
        lines.append("a version with the verdict to promote goes live")
    else:
        lines.append("no version goes live (AUTO_PROMOTE=0)")
    return lines


def run(settings: "LearnSettings", job: "Job") -> int:
    """Learn, and return the exit code: 0, 6 if the audit or the guard stops it, 7 if nothing better came of it.

    Raises SdpoError if a stage failed; the same command then goes on with that stage.
    """
    folder = RunDirectory(settings.run_directory_path)
    try:
        learner = learner_lock(settings.registry)
    except (RunError, OSError):
        with suppress(OSError):  # it has files if it is a night to go on with
            folder.path.rmdir()
        raise
    with learner, stage_lock(folder.path) as lock:
        begun = provenance()
        if folder.read_json(STARTED) is None:
            with suppress(OSError):  # not on every file system
                folder.path.chmod(0o700)  # as of the store, what was said there is for its owner's eyes only
            facts = {"job": job.name, "settings": settings_module.redacted(settings), "identity": identity(settings)}
            folder.write_json(STARTED, facts | {"given": given_to_repeat(settings)} | begun)
        print(f"run directory: {folder.path}", flush=True)
        night = Night(settings, folder, lock)
        try:
            row = night.run()
        except (KeyboardInterrupt, SystemExit):
            print("the finished stages are kept; the same command goes on after them", file=sys.stderr, flush=True)
            raise
        summary = {name: row.get(name) for name in ("outcome", "sentence", "version", "exit_code")}
        stages = {name: one["sentence"] for name, one in night.results.items()}
        seconds = sum(one["seconds"] for one in night.results.values())
        summary |= {"stages": stages, "seconds": round(seconds, 1), "finished": True, **begun}
        folder.write_json(SUMMARY, summary)
        for name in (collect.CONVERSATIONS, PREPARED):  # everybody's, also of those who are not learned from
            (night.data / name).unlink(missing_ok=True)
    sentence = f"{row['outcome']}: {row['sentence']}"
    say(sentence, {"summary": folder.path / SUMMARY}, *_next_command(row, folder.path, settings.tiny))
    return int(row["exit_code"])


def _next_command(row: dict[str, Any], folder: Path, tiny: bool) -> tuple[str, str]:
    """Return the command to run after a night, and what it is for."""
    if row["outcome"] == PROMOTED:
        through = f"{command('gateway', tiny=tiny)} in front of the model's server"
        return command("chat", tiny=tiny), f"talks to it, through {through}: docs/guides/loop.md"
    if row["outcome"] == CANARY:
        return command("canary"), "compares it with what is live"
    if row["outcome"] == CANDIDATE:
        return command("promote", version=row.get("version")), "lets it go live"
    return command("report", run_dir=folder), "one page about this night"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a night, None if it has not come to its end."""
    try:
        return json.loads((folder / SUMMARY).read_text("utf-8"))
    except (OSError, ValueError):
        return None
