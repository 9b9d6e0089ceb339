"""pairs.html in a browser: opened from its file, at the width of a desktop and of a phone."""

import pytest

from sdpo.evaluate.answers import Answer
from sdpo.evaluate.comparison import Comparison
from sdpo.evaluate.evidence import JudgeTruth
from sdpo.evaluate.judge_truth import warnings
from sdpo.evaluate.pairs_page import write_pairs
from sdpo.evaluate.prompts import EvaluationPrompt
from tests.browser import Page, needs_browser, rendered_html, run_in_page

HOSTILE = "<script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\"> </script>"
VERDICTS = [("A", "B"), ("B", "A"), ("C", "C"), None, (None, "A"), ("A", "B")]
OTHER_VERDICTS = [("A", "B"), ("A", "B"), ("C", "C"), None, ("A", "A"), ("B", "A")]

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    texts = [HOSTILE, "short", "a" * 400, "two\nlines", "", "an emoji 🐱 here"]
    truths = [
        JudgeTruth("one", 64, 0.95, {"order": 0.9, "length": 1.0}, 0.87, 0.98),
        JudgeTruth("two <b>", 64, 0.5, {"order": 0.0, "length": 0.5}, 0.38, 0.62),
    ]
    comparison = Comparison(
        prompts=[EvaluationPrompt(f"id-{n}", f"prompt {n} {text}", []) for n, text in enumerate(texts)],
        too_long=0,
        persona="I like <b>cats</b>.",
        weights={},
        generated={},
        answers={
            "baseline": [Answer(f"base {text}") for text in texts],
            "checkpoint-10": [Answer(text) for text in texts],
            "checkpoint-3": [Answer(f"early {text}") for text in texts],
        },
        verdict_pairs={
            "one": {"checkpoint-3": OTHER_VERDICTS, "checkpoint-10": VERDICTS},
            "two": {"checkpoint-3": OTHER_VERDICTS, "checkpoint-10": OTHER_VERDICTS},
        },
        rows=[],
        agreement=[],
        warnings=[],
        judge_truth=truths,
        judge_warnings=warnings(truths, 0.8),
        fits={
            "baseline": [True, True, True, True, False, True],
            "checkpoint-10": [False, True, True, True, True, True],
            "checkpoint-3": [True] * 6,
        },
    )
    return write_pairs(tmp_path_factory.mktemp("page") / "pairs.html", "a run <i>of</i> mine", comparison)


def test_opened_from_its_file_it_shows_every_pair_as_text(page):
    shown = rendered_html(page)
    assert "<title>a run &lt;i&gt;of&lt;/i&gt; mine</title>" in shown
    assert shown.count("<article") == 6 and "base &lt;script&gt;" in shown
    assert shown.count("<img") == 0 and shown.count("<script") == 2 and "&lt;b&gt;cats" in shown


@pytest.mark.parametrize("width", [1280, 390])
def test_filters_work_and_nothing_is_clipped(page, width):
    found = run_in_page(
        page,
        width,
        """
        const articles = () => [...page.querySelectorAll("article")];
        const ids = () => articles().map((article) => article.querySelectorAll("header span")[1].textContent);
        const box = (node) => node.getBoundingClientRect();
        const edge = page.documentElement.clientWidth;
        const seen = { first: ids() };
        choose("order", "file");
        Object.assign(seen, { fits: page.documentElement.scrollWidth <= edge, all: ids(), title: page.title });
        const [left, right] = page.querySelectorAll("article .answers section");
        seen.beside = box(left).right <= box(right).left;
        seen.below = box(left).bottom <= box(right).top;
        seen.inside = [...page.querySelectorAll("body *")].every((node) => box(node).right <= edge);
        seen.font = parseFloat(getComputedStyle(page.querySelector("article .text")).fontSize);
        seen.text = page.querySelectorAll("article .answers .text")[1].textContent;
        seen.chosen = articles().map((article) => [...article.querySelectorAll("section")].map((s) => s.className));
        for (const value of ["win", "loss", "tie", "same", "unreadable", "differ"]) {
          choose("outcome", value);
          seen[value] = ids();
        }
        choose("outcome", "all");
        choose("text", "EMOJI", "input");
        seen.found = ids();
        choose("text", "", "input");
        choose("judge", "two");
        choose("outcome", "win");
        seen.two = ids();
        choose("checkpoint", "checkpoint-3");
        seen.early = page.querySelectorAll("article .text")[2].textContent;
        seen.count = page.getElementById("count").textContent;
        return seen;
        """,
    )
    everything = [f"id-{n}" for n in range(6)]
    assert found["first"] == ["id-4", "id-1", "id-0", "id-2", "id-3", "id-5"]
    assert found["all"] == everything and found["fits"] and found["inside"]
    assert (found["beside"], found["below"]) == ((True, False) if width == 1280 else (False, True))
    assert found["font"] >= 14
    assert found["text"] == HOSTILE and found["title"] == "a run <i>of</i> mine"
    assert found["chosen"][:3] == [["", "chosen"], ["chosen", ""], ["", ""]]
    assert found["win"] == ["id-0", "id-5"] and found["loss"] == ["id-1"] and found["tie"] == ["id-2"]
    assert found["same"] == ["id-3"] and found["unreadable"] == ["id-4"]
    assert found["differ"] == ["id-1", "id-4", "id-5"]
    assert found["found"] == ["id-5"] and found["two"] == ["id-0", "id-1"]
    assert found["early"] == f"early {HOSTILE}" and found["count"].startswith("2 of 6")


def test_what_got_worse_is_counted_and_shown_first_by_keyboard_too(page):
    with Page(page, 390) as window:
        shown = "[...document.querySelectorAll('article header span:nth-child(2)')].map((span) => span.textContent)"
        labels = "[...document.querySelectorAll('#{} button')].map((button) => button.textContent)"
        assert window.ask(shown)[:3] == ["id-4", "id-1", "id-0"]  # says nothing, lost, fits no longer
        worse, better = window.ask(labels.format("worse")), window.ask(labels.format("better"))
        assert worse == [
            "3 of 6 in any way",
            "1 says nothing any more",
            "1 lost in both orders",
            "1 fitted the style before, not now",
            "0 more than twice as long",
            "0 less than half as long",
        ]
        assert better[0] == "3 of 6 in any way" and better[1:] == [
            "2 won in both orders",
            "1 fits the style now, not before",
        ]
        window.ask("document.querySelector('#worse [data-change=unfit]').focus()")
        for kind in ("keyDown", "keyUp"):
            window.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )
        assert window.ask(shown) == ["id-0"]
        pressed = "document.activeElement.dataset.change + document.activeElement.getAttribute('aria-pressed')"
        assert window.ask(pressed) == "unfittrue"
        assert "fitted the style before" in window.ask("document.querySelector('article header').textContent")
        window.click("#worse [data-change=unfit]")
        assert len(window.ask(shown)) == 6
        assert window.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert not window.errors()


def test_a_judge_that_is_often_wrong_is_named_at_the_top(page):
    text = page.read_text("utf-8")
    top, _, _ = text.partition("<form")
    assert top.count('class="weak"') == 1 and "two &lt;b&gt; is right on 0.50 of 64 labelled pairs" in top
    assert "judge one is right on 0.95 [0.87, 0.98] of 64" in top
    # Without a script the counts are readable all the same.
    inside = text.partition("<noscript>")[2].partition("</noscript>")[0]
    assert inside.count("<tr>") == 5 and "lost in both orders" in inside
