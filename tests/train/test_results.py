"""What a training run says of its answers beside its figures."""

import pytest

from sdpo.train.results import print_if_never_met


@pytest.mark.parametrize(
    ("before", "shown", "said"),
    [(0.0, 0.0, True), (0.0, 0.1, False), (0.1, 0.0, False), (None, None, False), (0.0, None, False)],
)
def test_a_style_that_the_untrained_model_never_meets_is_noted(before, shown, said, capsys):
    summary = {
        "before": {"adherence": before, "answers": 64},
        "shown": shown if shown is None else {"adherence": shown},
    }
    print_if_never_met(summary, "sources")
    note = "note: none of 64 answers fits STYLE=sources, also with the wish shown: the model may be unable to meet it"
    assert (note in capsys.readouterr().out) is said
