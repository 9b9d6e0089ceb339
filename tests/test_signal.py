"""The signal analysis: scale, figures, cases, page, and the job on the tiny world."""

import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.chat import encode_completion
from sdpo.errors import RecordError
from sdpo.prompts import with_hindsight
from sdpo.scoring import top_alternatives
from sdpo.signal import heatmap, page
from sdpo.signal.analysis import summarize
from sdpo.signal.cases import CASES_FILE, read_cases
from sdpo.signal.colours import colour, ink, limit_of, mark
from sdpo.signal.glyphs import figure_text
from sdpo.signal.measure import Subject
from tests.browser import Page, needs_browser
from tests.test_report import Reader
from tests.worlds import environment

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
def test_text_on_a_colour_can_be_read(limit, value):
    def luminance(colour):
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    shade = colour(value, limit)
    light, dark = sorted((luminance(shade), luminance((255,) * 3 if ink(shade) == "#ffffff" else (0,) * 3)))[::-1]
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=400))
def test_the_scale_holds_all_but_the_most_extreme(values):
    limit = limit_of(values)
    assert limit >= 0.1
    assert sum(abs(value) > limit * (1 + 1e-6) for value in values) <= 0.005 * len(values)
    assert limit <= 0.1 or limit <= 2 * max(map(abs, values))


def test_no_number_is_drawn_without_a_fault():
    assert limit_of([math.nan, math.inf, -math.inf]) == 0.1
    assert colour(math.nan, 1.0) == colour(0, 1.0) and colour(-math.inf, 1.0) == colour(-1, 1.0)


# Text in figures


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_figure_gets_only_what_its_font_has(text):
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont("DejaVu Sans Mono"))
    shown = figure_text(text)
    assert all(font.get_char_index(ord(char)) for char in shown)
    assert "\n" not in shown and "\t" not in shown


def test_what_a_font_lacks_is_spelled_out():
    assert figure_text("a\n\tb 😀漢\u0301\u202e") == "a⏎⇥b U+1F600U+6F22U+0301U+202E"
    assert figure_text(" a b", spaces=True) == "·a·b"


# Figures at their real size: no two labels meet, and none is cut off


def drawn(monkeypatch):
    """Return the figures that are saved from now on."""
    figures = []

    def save(figure, path):
        figures.append(figure)
        return path

    monkeypatch.setattr(heatmap, "_save", save)
    return figures


def boxes_of(figure):
    renderer = figure.canvas.get_renderer()
    figure.draw_without_rendering()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label]
        texts += [tick.label1 for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()]
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    ticks = [tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()]
    # A tick outside the limits is not drawn.
    hidden = {id(tick.label1) for tick in ticks if not _inside(tick)}
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown if id(text) not in hidden]


def _inside(tick):
    axis = tick.axes.xaxis if tick.label1 in [one.label1 for one in tick.axes.xaxis.majorTicks] else tick.axes.yaxis
    low, high = sorted(axis.get_view_interval())
    return low - 1e-9 <= tick.get_loc() <= high + 1e-9


def assert_readable(figure):
    width, height = figure.get_size_inches() * figure.dpi
    boxes = sorted(boxes_of(figure), key=lambda item: item[1].y0)
    assert boxes
    for text, box in boxes:
        assert box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= width + 0.5 and box.y1 <= height + 0.5, text
    for place, (text, box) in enumerate(boxes):
        for other, that in boxes[place + 1 :]:
            if that.y0 > box.y1:
                break
            apart = box.x1 <= that.x0 + 1.5 or that.x1 <= box.x0 + 1.5 or box.y1 <= that.y0 + 2 or that.y1 <= box.y0 + 2
            assert apart, (text, other)


def case_of(pieces, name="case", long_words=False):
    signal = [math.sin(3 * place) * 14 for place in range(len(pieces))]
    words = "so many words here " * 60 if long_words else "short"
    return {
        "id": name, "tag": "constrain", "system": "", "raw_prompt": words, "unrelated_followup": words,
        "feedback_followup": words + "$x_1$", "completion": "".join(pieces), "finished": True, "tokens": pieces,
        "token_ids": list(range(len(pieces))),
        "signal": {"unrelated": [value / 100 for value in signal], "followup": signal},
        "logps": {name: [-1.0] * len(pieces) for name in ("bare", "unrelated", "followup")},
        "alternatives": {
            name: [[(piece, 0.5), ("<b>", 1e-9)] for piece in pieces] for name in ("bare", "unrelated", "followup")
        },
    }  # fmt: skip


HARD = [
    "a",
    "\n",
    "\n\n",
    "\t\tx",
    " " * 30,
    "",
    "😀",
    "漢字",
    "$\\frac{1}{2}$",
    "averylongtoken" * 12,
    "e\u0301",
    "<b>",
]


@pytest.mark.parametrize("length", [5, 256])
@pytest.mark.parametrize("kind", ["words", "hard"])
def test_labels_of_a_case_neither_meet_nor_are_cut(length, kind, tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    pieces = (HARD if kind == "hard" else [" the", " hamster", ",", " I"]) * length
    heatmap.draw_case(tmp_path / "case.png", case_of(pieces[:length], "id" * 20, long_words=kind == "hard"), 7.5)
    assert_readable(figures[0])


@pytest.mark.parametrize("length", [5, 256])
def test_labels_of_the_heatmaps_neither_meet_nor_are_cut(length, tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    cases = [case_of(["x"] * length, f"a-case-with-a-long-name-{number}") for number in range(24)]
    heatmap.draw_heatmaps(tmp_path, cases, 7.5)
    assert len(figures) == 4
    for figure in figures:
        assert_readable(figure)


# Tokens


def test_alternatives_are_those_of_the_full_logits(model):
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
def test_pieces_are_the_text(tokenizer, text):
    subject = Subject("tiny", None, tokenizer)
    ids = encode_completion(tokenizer, text)
    pieces = subject.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


# Cases


def test_the_shipped_cases_are_pairs_of_several_tasks():
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
def test_a_fault_in_a_case_is_named_with_the_case(rows, words, tmp_path):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(RecordError) as caught:
        read_cases(path)
    assert all(word in str(caught.value) for word in (str(path), *words)) and "\n" not in str(caught.value)


# The page


def result_of(cases, limit=7.5):
    return {
        "model": "m</script>", "template": "<i>{follow_up}", "scale": {"limit": limit}, "cases": cases,
        "summary": summarize(cases),
    }  # fmt: skip


def test_the_page_holds_every_token_whole_and_as_text(tmp_path):
    case = case_of([*HARD, "</span><script>alert(1)</script>"])
    path = page.write_signal_page(tmp_path / "signal.html", result_of([case]))
    read = Reader(path.read_text("utf-8"))
    cells = [attributes for tag, attributes in read.elements if tag == "span" and "data-at" in attributes]
    assert len(cells) == 2 * len(case["tokens"])
    # One script of the page's own and one block of data.
    assert sum(tag == "script" for tag, _ in read.elements) == 2
    assert sum(tag == "b" for tag, _ in read.elements) == 5  # the scale's labels, no token
    assert "😀" in read.texts["span"] and "漢字" in read.texts["span"]


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser(width, tmp_path):
    case = case_of(HARD + [" word", ",", "</span><script>alert(1)</script>"] * 20, long_words=True)
    path = page.write_signal_page(tmp_path / "signal.html", result_of([case, case_of(list("short"))]))
    with Page(path, width) as shown:
        assert shown.ask("document.documentElement.scrollWidth") <= width
        first, second = shown.ask(
            "[...document.querySelectorAll('.pair > div')].slice(0, 2).map(e => e.getBoundingClientRect().left)"
        )
        assert (second > first) == (width > 700)
        assert shown.ask("document.getElementById('card').hidden")
        shown.click("[data-at='1 followup 1']")
        words = shown.ask("document.getElementById('card').innerText")
        value = case_of(list("short"))["signal"]["followup"][1]
        assert words.splitlines()[0] == "h" and page.number_text(value) in words
        assert "50.0" in words and "<b>" in words
        left, right, bottom = shown.ask(
            "(b => [b.left, b.right, b.bottom])(document.getElementById('card').getBoundingClientRect())"
        )
        assert left >= 0 and right <= width and bottom <= 900
        shown.click("h1")
        assert shown.ask("document.getElementById('card').hidden")
        shown.click("#values")
        assert shown.ask("document.body.className") == "values"
        assert shown.ask("document.documentElement.scrollWidth") <= width
        assert shown.complaints() == []


# The job


def test_the_job_draws_the_tiny_world(tmp_path, model, tokenizer):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "jobs.signal_analysis", "--tiny", "--n-cases", "6", "--out-dir", str(out)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    named = {"sdpo_signals.json", "unrelated.png", "followup.png", "stacked.png", "side_by_side.png", "signal.html"}
    named |= {f"case{number}_tokens.png" for number in range(1, 7)}
    assert named <= {path.name for path in out.iterdir()}
    found = json.loads((out / "sdpo_signals.json").read_text("utf-8"))
    assert len(found["cases"]) == 6
    case = found["cases"][1]
    messages = [{"role": "system", "content": case["system"]}, {"role": "user", "content": case["raw_prompt"]}]
    shown = with_hindsight(messages, case["feedback_followup"])
    slow = [slow_logps(model, tokenizer, asked, case["token_ids"]) for asked in (shown, messages)]
    expected = [later - before for later, before in zip(*slow, strict=True)]
    assert case["signal"]["followup"] == pytest.approx(expected, abs=1e-4)
    sizes = found["summary"]["mean_size"]
    assert sizes["unrelated"] < 0.1 * sizes["followup"]
    # Finished: the same name is refused, in one line.
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert again.returncode == 1 and len(again.stderr.splitlines()) == 1


def slow_logps(model, tokenizer, messages, ids):
    """Every logit of one row, in float64."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    context = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logps = model.double()(torch.tensor([context + ids])).logits[0].log_softmax(-1)
    return [logps[len(context) - 1 + place, token].item() for place, token in enumerate(ids)]
