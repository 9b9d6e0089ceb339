"""BASELINE may be a folder with an adapter: it is compared as one on its base model."""

import json

import pytest

from jobs import eval_tldr
from sdpo.errors import SettingError
from sdpo.evaluate.fingerprints import NothingKnown, base_of, fingerprint, model_at
from sdpo.runtime.launch import main
from sdpo.tiny import MODEL_DIR
from tests.evaluations import add_checkpoint, arguments, evaluate, make_run
from tests.registries import write_adapter


def test_an_adapters_base_is_read_from_its_folder(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", seed=1)
    assert base_of(str(adapter)) == str(MODEL_DIR) and base_of(str(MODEL_DIR)) is None
    assert model_at("x", str(adapter)).base == str(MODEL_DIR)
    prints = {fingerprint(model_at("x", str(path)), NothingKnown()) for path in (adapter, MODEL_DIR)}
    assert len(prints) == 2
    # PEFT writes the names of the modules in any order.
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"] = config["target_modules"][::-1]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert fingerprint(model_at("x", str(adapter)), NothingKnown()) in prints
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1}))
    assert fingerprint(model_at("x", str(adapter)), NothingKnown()) not in prints
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(SettingError, match="not an adapter's configuration"):
        base_of(str(adapter))


@pytest.mark.slow
def test_an_adapter_as_the_baseline_gives_other_verdicts_than_its_base(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 3)
    zero, moved = (write_adapter(tmp_path / str(size), 1, size) for size in (0.0, 0.3))
    reports = [evaluate(run, baseline=str(path), eval_temperature=0) for path in (MODEL_DIR, zero, moved)]
    # The checkpoint is the base model, and so is an adapter that changes nothing: all answers are the same.
    lengths = [(report["rows"][0]["length"], report["rows"][0]["baseline_length"]) for report in reports]
    assert [own == other for own, other in lengths] == [True, True, False]
    assert reports[1]["weights"]["baseline"] != reports[0]["weights"]["baseline"]
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")}))
    capsys.readouterr()
    assert main(eval_tldr.JOB, arguments(run, baseline=moved)) == 2
    error = capsys.readouterr().err
    assert "BASELINE" in error and "gone" in error and len(error.splitlines()) == 1
