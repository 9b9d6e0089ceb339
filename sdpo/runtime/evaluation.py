"""The command that evaluates a training run, for messages that name it as the next one."""

from sdpo.runtime.commands import command
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import EvalSettings, settings_of
from sdpo.settings.evaluation import GENERAL_JUDGE
from sdpo.settings.training import RULE
from sdpo.users.styles import FILE as STYLES


def next_evaluation(run: RunDirectory) -> tuple[str, str]:
    """Return the command that evaluates the run, and what it is for; empty strings if no checkpoint is good to use."""
    summary = run.read_json("summary.json") or {}
    if run.last_checkpoint() is None or ("stopped_by_guard" in summary and not summary.get("best_checkpoint")):
        return "", ""
    started = run.read_json("run.json") or {}
    recorded = started.get("settings") or {}
    tiny, gpus = bool(recorded.get("tiny")), recorded.get("world_size") or 1
    values = {"world_size": gpus if gpus > 1 and recorded.get("nnodes") == 1 else None, "tiny": tiny}
    why = "compares its checkpoints with the model before"
    own = (run.read_json(STYLES) or {}).get(recorded.get("style") or "")
    # The tiny world's judges know its own styles alone.
    if recorded.get("user_model_name_or_path") == RULE and (not tiny or (isinstance(own, dict) and own.get("rule"))):
        values["judge_model"] = RULE  # whoever was the user can judge
    elif not tiny:
        on_posts = str(started.get("job", "")).endswith("tldr")
        judge = settings_of(EvalSettings)["judge_model"].default if on_posts else GENERAL_JUDGE
        why += f"; {judge} judges, or the model of JUDGE_MODEL=..."
    return command("eval", run_dir=run.path, **values), why
