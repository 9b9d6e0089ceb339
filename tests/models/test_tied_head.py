"""A checkpoint of a tied model is loaded without an alarm; weights that are really missing are reported."""

import logging

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer import logger

from sdpo.models.tied_head import expect_no_tied_head
from tests.small import small_model


@pytest.mark.parametrize(
    ("tied", "expected", "removed", "reports"),
    [
        (True, False, None, ["lm_head.weight"]),  # as transformers alone does it
        (True, True, None, []),
        (True, True, "model.norm.weight", ["model.norm.weight"]),
        (False, True, "lm_head.weight", ["lm_head.weight"]),
        (False, True, None, []),
    ],
)
def test_only_missing_weights_are_reported(tied, expected, removed, reports, tmp_path, caplog):
    model = small_model(tied=tied)
    if expected:
        expect_no_tied_head(model)
    state = model.state_dict()
    if removed:
        del state[removed]
    model.save_pretrained(tmp_path, state_dict=state)
    with torch.no_grad():
        before = model.get_input_embeddings().weight.clone()
        model.get_input_embeddings().weight.zero_()
    trainer = Trainer(model, TrainingArguments(str(tmp_path / "out"), report_to=[], use_cpu=True))
    logger.propagate, caplog.handler.level = True, logging.WARNING
    logging.getLogger("transformers").propagate = True
    trainer._load_from_checkpoint(str(tmp_path))
    shown = " ".join(record.getMessage() for record in caplog.records)
    assert ("missing keys" in shown) == bool(reports) and all(name in shown for name in reports)
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
