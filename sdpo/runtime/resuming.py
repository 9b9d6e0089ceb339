"""What may differ between the settings of a run and those with which it is resumed."""

from collections.abc import Mapping, Sequence

from sdpo.settings import as_words, shown_name
from sdpo.settings.contrast import OF_NULL_CONTRAST
from sdpo.settings.recorded import under_present_names

# Settings that may change when a run is resumed: they do not affect what it computes.
MAY_CHANGE_ON_RESUME = {
    "dry_run",
    "concurrency",
    "simulator_url",
    "simulator_gpu",
    "simulator_timeout",
    "save_limit",
    "resume",
}
MAY_CHANGE_ON_RESUME |= {"simulator_wait", "simulator_api_key", "max_cost", "price_file"}
MAY_CHANGE_ON_RESUME |= {"nnodes", "node_rank", "master_addr", "master_port", "merge_adapter", "guard"}
# These may change too, as long as the number of rows per step stays the same.
STEP_SIZE = ("bs", "ga", "world_size")
MAY_CHANGE_ON_RESUME |= {
    *STEP_SIZE,
    "output_dir",
    "scratch",
    "run_id",
    "accelerate_config",
    "log_steps",
    "eval_batch_size",
}
MAY_CHANGE_ON_RESUME |= {"eval_steps", "user_trial"}
MAY_CHANGE_ON_RESUME |= {"report_to", "push_to_hub", "hub_public", "model_license", "export", "llama_cpp"}


# What runs did that were started before a setting existed.
EARLIER = {
    "recipe": "paper",
    "hindsight_template": "framed",
    "contrast_strength": 1.0,
    "contrast_margin": 0.0,
    "contrast_plausibility": 0.0,
    "lr_schedule": "constant",
    "learn_from": "all",
    "rehearsal": 0.0,
    "rehearsal_jsonl": None,
    "content_weight": 0.0,
    "user_states_satisfaction": False,
    "save_only_model": False,
}


def changed_settings(before: Mapping[str, object], settings: Mapping[str, object]) -> list[str]:
    """Return the names of the settings that differ from those of the run and may not."""
    may_change = MAY_CHANGE_ON_RESUME
    if not before.get("null_contrast") and not settings.get("null_contrast"):
        may_change = may_change.union(OF_NULL_CONTRAST)
    return [name for name in settings if name not in may_change and before.get(name) != settings[name]]


def not_applied(before: Mapping[str, object], settings: Mapping[str, object], changed: Sequence[str]) -> str:
    """Return a sentence, after a blank, on the settings that a finished run does not take; "" if none changed."""
    if not changed:
        return ""
    verb = "was" if len(changed) == 1 else "were"
    return f" It was trained with {shown(before, changed)}; {shown(settings, changed)} {verb} not applied."


def shown(settings: Mapping[str, object], names: Sequence[str]) -> str:
    """Return the settings of these names as they are typed; of many the first three."""
    words = [
        as_words({name: value})[0] if (value := settings.get(name)) is not None else f"{shown_name(name)} not set"
        for name in names[:3]
    ]
    return ", ".join([*words, *([f"{len(names) - 3} more"] if len(names) > 3 else [])])


def completed(settings: dict) -> dict:
    """Return the settings of a run with those that did not exist yet when it was started."""
    return EARLIER | under_present_names(settings)
