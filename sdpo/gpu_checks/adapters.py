"""Checks of adapters: on weights in bf16 and on weights in 4 bits, which tensors training changes."""

from sdpo.gpu_checks.outcome import Figures, Place, require
from sdpo.gpu_checks.runs import OFFLINE_JOB, STEPS, changed, check_steps, command, precision, run, weights
from sdpo.tiny import MODEL_DIR


def check_lora(place: Place) -> Figures:
    """Run offline steps with ADAPTER=lora and merge the adapter."""
    return _check(place, "lora")


def check_qlora(place: Place) -> Figures:
    """Run offline steps with ADAPTER=qlora and merge the adapter into the weights in full precision."""
    return _check(place, "qlora")


def _check(place: Place, adapter: str) -> Figures:
    """Return the figures of a run. Raises CheckFailed unless every adapted layer, and no other, was trained."""
    out = place.folder / "run"
    # A new adapter starts with B = 0, so A has no gradient in the first step.
    run(command(OFFLINE_JOB, out, adapter=adapter, merge_adapter=1, lr=1e-3))
    figures = precision(place) | check_steps(out)
    first, last = weights(out / "checkpoint-1"), weights(out / f"checkpoint-{STEPS}")
    require(all("lora_" in name for name in last), "the checkpoint holds more than the adapter", figures)
    up = {name: weight for name, weight in last.items() if "lora_B" in name}
    trained = sum(bool(weight.any()) for weight in up.values())
    require(trained == len(up) > 0, f"{trained} of {len(up)} layers' adapters were trained", figures)
    count = changed(first, last)
    require(count == len(last), f"{count} of {len(last)} tensors changed after the first step", figures)
    base, merged = weights(MODEL_DIR), weights(out / "merged")
    adapted = {name for name in base if any(_layer(name) == _layer(other) for other in up)}
    different = {name for name in base.keys() & merged if changed({name: base[name]}, {name: merged[name]})}
    require(different == adapted, f"merging changed {len(different)} tensors instead of {len(adapted)}", figures)
    return figures | {"adapted_layers": len(up), "merged_tensors_changed": len(different)}


def _layer(name: str) -> str:
    """Return the name of a weight's layer, without the prefixes and suffixes of an adapter's file."""
    return name.removeprefix("base_model.model.").partition(".lora_")[0].removesuffix(".weight")
