"""What a training run says of its answers beside its figures."""

from types import SimpleNamespace

import pytest

from sdpo.train.results import print_if_never_met

UNABLE = "also with the wish shown: the model may be unable to meet it"
FORWARD = "hardly learned with OBJECTIVE=token or the reverse divergence. OBJECTIVE=full DIRECTION=forward"


@pytest.mark.parametrize(
    ("before", "shown", "objective", "direction", "said"),
    [
        (0.0, 0.0, "full", "reverse", UNABLE),
        (0.0, 0.0, "full", "forward", UNABLE),
        (0.0, 0.77, "full", "reverse", f"77% do with the wish shown: what the model never says by itself is {FORWARD}"),
        (0.0, 0.1, "top_k", "jsd", FORWARD),
        (0.0, 0.77, "token", "forward", FORWARD),
        (0.0, 0.77, "full", "forward", None),
        (0.1, 0.0, "full", "reverse", None),
        (None, None, "full", "reverse", None),
        (0.0, None, "full", "reverse", None),
    ],
)
def test_a_style_that_the_untrained_model_never_meets_is_noted(before, shown, objective, direction, said, capsys):
    summary = {
        "before": {"adherence": before, "answers": 64},
        "shown": shown if shown is None else {"adherence": shown},
    }
    print_if_never_met(summary, SimpleNamespace(style="sources", objective=objective, direction=direction))
    printed = capsys.readouterr().out
    if said is None:
        assert printed == ""
    else:
        assert printed.startswith("note: none of 64 answers fits STYLE=sources, ") and said in printed
