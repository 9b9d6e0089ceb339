"""The signal analysis: scale, tokens, cases, and the job on the tiny world."""

import json
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.errors import RecordError
from sdpo.method.scoring import top_alternatives
from sdpo.signal.cases import CASES_FILE, read_cases
from sdpo.signal.colours import colour, ink, limit_of, mark
from sdpo.signal.loaded_model import LoadedModel
from sdpo.signal.relevance import CLEARLY_ABOVE
from sdpo.text.chat import encode_completion
from sdpo.text.hindsight import HINDSIGHT, with_hindsight
from tests import forks
from tests.worlds import environment

pytestmark = pytest.mark.slow

# The scale


@settings(deadline=None)
@given(st.floats(0.1, 50), st.floats(-100, 100))
def test_the_scale_is_centred_on_zero_and_symmetric(limit, value):
    red, green, blue = colour(value, limit)
    assert colour(0, limit) == (247, 247, 247)
    if abs(value) >= limit:
        assert (red, green, blue) == colour(math.copysign(limit, value), limit)
    if abs(value) > 0.05 * limit:
        assert (blue > red) == (value > 0)
    assert mark(value, limit) in ("", "more" if value > 0 else "less")


@settings(deadline=None)
@given(st.floats(0.1, 50), st.floats(-100, 100))
def test_text_on_every_colour_has_enough_contrast(limit, value):
    def luminance(colour):
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    shade = colour(value, limit)
    light, dark = sorted((luminance(shade), luminance((255,) * 3 if ink(shade) == "#ffffff" else (0,) * 3)))[::-1]
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=400))
def test_the_scale_covers_all_but_the_most_extreme_values(values):
    limit = limit_of(values)
    assert limit >= 0.1
    assert sum(abs(value) > limit * (1 + 1e-6) for value in values) <= 0.005 * len(values)
    assert limit <= 0.1 or limit <= 2 * max(map(abs, values))


def test_nan_and_infinity_have_a_limit_and_a_colour():
    assert limit_of([math.nan, math.inf, -math.inf]) == 0.1
    assert colour(math.nan, 1.0) == colour(0, 1.0) and colour(-math.inf, 1.0) == colour(-1, 1.0)


# Tokens


def test_alternatives_match_the_full_logits(model):
    context, completion = [3, 40, 99, 7], list(range(300, 300 + 290))
    logps_TK, ids_TK = top_alternatives(model, context, completion, 4)
    with torch.no_grad():
        full = model(torch.tensor([context + completion])).logits[0].double().log_softmax(-1)[3:-1]
    expected = full.topk(4)
    assert logps_TK.shape == (290, 4)
    torch.testing.assert_close(logps_TK.double(), expected.values, atol=1e-4, rtol=0)
    assert (ids_TK == expected.indices).float().mean() > 0.99
    assert model.lm_head.forward.__func__ is torch.nn.Linear.forward


@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_pieces_joined_are_the_text(tokenizer, text):
    subject = LoadedModel("tiny", None, tokenizer)
    ids = encode_completion(tokenizer, text)
    pieces = subject.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


# Cases


def test_the_shipped_cases_are_pairs_with_one_prompt():
    cases = read_cases(CASES_FILE)
    assert len(cases) >= 24
    for first, second in zip(cases[::2], cases[1::2], strict=True):
        assert (first.tag, second.tag) == ("reinforce", "constrain") and first.raw_prompt == second.raw_prompt
        assert len({first.feedback_followup, second.feedback_followup, first.unrelated_followup}) == 3


GOOD = {"id": "a", "tag": "constrain", "raw_prompt": "x", "unrelated_followup": "u", "feedback_followup": "f"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD, GOOD | {"id": "b", "tag": "other"}], ("'b'", "tag")),
        ([GOOD, GOOD | {"id": "b", "raw_prompt": " "}], ("'b'", "raw_prompt")),
        ([GOOD | {"feedback_follow_up": "f"}], ("'a'", "feedback_followup")),
        ([GOOD, GOOD], ("'a'", "twice")),
        ([GOOD, {"tag": "constrain"}], ("number 2", "id")),
        ([GOOD, "text"], ("number 2",)),
        ({"a": GOOD}, ("list",)),
        ([], ("empty",)),
    ],
)
def test_an_error_in_a_case_names_file_case_and_field(rows, words, tmp_path):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(RecordError) as caught:
        read_cases(path)
    assert all(word in str(caught.value) for word in (str(path), *words)) and "\n" not in str(caught.value)


# The job


def test_the_job_in_the_tiny_world(tmp_path, model, tokenizer):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "jobs.signal_analysis", "--tiny", "--n-cases", "6", "--out-dir", str(out)]
    done = forks.run(command, env=environment(), timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    expected_files = {
        "sdpo_signals.json",
        "unrelated.png",
        "followup.png",
        "stacked.png",
        "side_by_side.png",
        "signal.html",
    }
    expected_files |= {f"case{number}_tokens.png" for number in range(1, 7)}
    assert expected_files <= {path.name for path in out.iterdir()}
    result = json.loads((out / "sdpo_signals.json").read_text("utf-8"))
    assert len(result["cases"]) == 6
    assert result["template"] == {"text": HINDSIGHT.text, "place": "after"}
    case = result["cases"][1]
    messages = [{"role": "system", "content": case["system"]}, {"role": "user", "content": case["raw_prompt"]}]
    shown = with_hindsight(messages, case["feedback_followup"])
    slow = [slow_logps(model, tokenizer, prompt, case["token_ids"]) for prompt in (shown, messages)]
    expected = [with_follow_up - without for with_follow_up, without in zip(*slow, strict=True)]
    assert case["signal"]["followup"] == pytest.approx(expected, abs=1e-4)
    sizes = result["summary"]["mean_size"]
    assert sizes["unrelated"] < 0.1 * sizes["followup"]
    # The verdict in words is in the terminal, on the page and in both files.
    said = result["relevance"]
    assert said["verdict"] == CLEARLY_ABOVE and said["advice"] is None and said["interval"][0] > 5
    assert said["ratio"] == pytest.approx(sizes["followup"] / sizes["unrelated"])
    assert said["sentence"] in done.stdout and said["sentence"] in (out / "signal.html").read_text("utf-8").replace(
        "&#39;", "'"
    )
    assert json.loads((out / "summary.json").read_text("utf-8"))["relevance"] == said
    # The run is finished: the same run directory is refused, with a one-line error.
    again = forks.run(command, env=environment(), timeout=600, cwd=tmp_path)
    assert again.returncode == 1 and len(again.stderr.splitlines()) == 1


def slow_logps(model, tokenizer, messages, ids):
    """Return the log-probabilities of `ids` from the full logits of one row, in float64."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    context = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logps = model.double()(torch.tensor([context + ids])).logits[0].log_softmax(-1)
    return [logps[len(context) - 1 + index, token].item() for index, token in enumerate(ids)]
