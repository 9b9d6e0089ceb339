"""The figures of the signal analysis (labels do not overlap and are not cut off) and its page."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.runtime.glyphs import figure_text
from sdpo.signal import cells, heatmap, signal_page
from sdpo.signal.analysis import summarize
from sdpo.signal.relevance import compare_signals
from tests.browser import Page, needs_browser
from tests.runtime.test_page import PageReader

# Text in figures


@settings(deadline=None)
@given(st.text(max_size=40))
def test_figure_text_has_only_characters_of_the_font(text):
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont("DejaVu Sans Mono"))
    shown = figure_text(text)
    assert all(font.get_char_index(ord(char)) for char in shown)
    assert "\n" not in shown and "\t" not in shown


def test_characters_missing_from_the_font_become_code_points():
    assert figure_text("a\n\tb 😀漢\u0301\u202e") == "a⏎⇥b :grinning face:U+6F22U+0301U+202E"
    assert figure_text(" a b", spaces=True) == "·a·b"


# Figures at their real size: no two labels overlap, and none is cut off


def saved_figures(monkeypatch):
    """Return a list to which every figure saved from now on is added."""
    figures = []

    def save(figure, path, dpi):
        figures.append(figure)
        return path

    monkeypatch.setattr(heatmap, "save_figure", save)
    return figures


def label_boxes(figure):
    renderer = figure.canvas.get_renderer()
    figure.draw_without_rendering()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label]
        texts += [tick.label1 for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()]
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    ticks = [tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()]
    # A tick outside the axis limits is not drawn.
    hidden = {id(tick.label1) for tick in ticks if not _inside(tick)}
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown if id(text) not in hidden]


def _inside(tick):
    axis = tick.axes.xaxis if tick.label1 in [one.label1 for one in tick.axes.xaxis.majorTicks] else tick.axes.yaxis
    low, high = sorted(axis.get_view_interval())
    return low - 1e-9 <= tick.get_loc() <= high + 1e-9


def assert_readable(figure):
    width, height = figure.get_size_inches() * figure.dpi
    boxes = sorted(label_boxes(figure), key=lambda item: item[1].y0)
    assert boxes
    for text, box in boxes:
        assert box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= width + 0.5 and box.y1 <= height + 0.5, text
    for index, (text, box) in enumerate(boxes):
        for other_text, other in boxes[index + 1 :]:
            if other.y0 > box.y1:
                break
            beside = box.x1 <= other.x0 + 1.5 or other.x1 <= box.x0 + 1.5
            above_or_below = box.y1 <= other.y0 + 2 or other.y1 <= box.y0 + 2
            assert beside or above_or_below, (text, other_text)


def case_of(pieces, name="case", long_words=False):
    signal = [math.sin(3 * index) * 14 for index in range(len(pieces))]
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
def test_labels_of_a_case_do_not_overlap_and_are_not_cut_off(length, kind, tmp_path, monkeypatch):
    figures = saved_figures(monkeypatch)
    pieces = (HARD if kind == "hard" else [" the", " hamster", ",", " I"]) * length
    heatmap.draw_case(tmp_path / "case.png", case_of(pieces[:length], "id" * 20, long_words=kind == "hard"), 7.5)
    assert_readable(figures[0])


@pytest.mark.parametrize("length", [5, 256])
def test_labels_of_the_heatmaps_do_not_overlap_and_are_not_cut_off(length, tmp_path, monkeypatch):
    figures = saved_figures(monkeypatch)
    cases = [case_of(["x"] * length, f"a-case-with-a-long-name-{number}") for number in range(24)]
    heatmap.draw_heatmaps(tmp_path, cases, 7.5)
    assert len(figures) == 4
    for figure in figures:
        assert_readable(figure)


# The page


def result_of(cases, limit=7.5):
    relevance = compare_signals(*([case["signal"][kind] for case in cases] for kind in ("unrelated", "followup")))
    return {
        "model": "m</script>", "template": {"text": "<i>{follow_up}", "place": "before"}, "scale": {"limit": limit},
        "cases": cases, "summary": summarize(cases), "relevance": relevance.as_dict("before"),
    }  # fmt: skip


def test_the_page_holds_every_token_complete_and_escaped(tmp_path):
    case = case_of([*HARD, "</span><script>alert(1)</script>"])
    path = signal_page.write_signal_page(tmp_path / "signal.html", result_of([case]))
    read = PageReader(path.read_text("utf-8"))
    cells = [attributes for tag, attributes in read.elements if tag == "span" and "data-at" in attributes]
    assert len(cells) == 2 * len(case["tokens"])
    # The page's own script and its data block.
    assert sum(tag == "script" for tag, _ in read.elements) == 2
    assert sum(tag == "b" for tag, _ in read.elements) == 5  # the labels of the scale; the token <b> is not among them
    assert "😀" in read.texts["span"] and "漢字" in read.texts["span"]
    assert "1 case is too few to say" in read.texts["strong"] and "raise N_CASES" in read.texts["p"]
    assert "<i>{follow_up}" in read.texts["p"] and "Shown in this place: before." in read.texts["p"]


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser(width, tmp_path):
    case = case_of(HARD + [" word", ",", "</span><script>alert(1)</script>"] * 20, long_words=True)
    path = signal_page.write_signal_page(tmp_path / "signal.html", result_of([case, case_of(list("short"))]))
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
        assert words.splitlines()[0] == "h" and cells.number_text(value) in words
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
        assert shown.errors() == []
