"""The report in a browser: widths, keyboard, dark and light, and text that stays text."""

import pytest

from sdpo.report import write_report
from tests.browser import Page, needs_browser
from tests.report.folders import rows, sample, write_evaluation, write_night

pytestmark = needs_browser

EVIL = "<script>document.title = 'evil'</script><img src=x onerror=\"document.title = 'evil'\">"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Return the page of a night whose samples hold markup and very long words."""
    night = write_night(tmp_path_factory.mktemp("page") / ("a-night-with-a-very-long-name-" * 4))
    long = sample(2) | {"prompt": EVIL + "x" * 600, "follow_up": EVIL, "tokens": [EVIL, "y" * 600], "signal": [1, -1]}
    rows(night / "train" / "samples.jsonl", [sample(1), long])
    write_evaluation(night / "train" / "eval")
    return write_report(night)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_text_stays_text(page, width, tmp_path):
    with Page(page, width, folder=tmp_path) as window:
        window.ask("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert window.ask("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('table')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
        assert width > 390 or window.ask(wide) == 0
        assert window.ask("document.title").startswith("Report of the night")
        assert window.ask("document.body.textContent.includes('checkpoint-12: it gains')")
        assert window.ask("document.querySelectorAll('img, script').length") == 0
        assert window.ask("document.body.textContent.includes('<script>document.title')")
        assert window.ask("document.querySelectorAll('svg').length") >= 6
        assert window.errors() == []


def test_the_keyboard_reaches_and_opens_every_part(page, tmp_path):
    with Page(page, 1280, folder=tmp_path) as window:
        reached, opened = set(), 0
        for _ in range(60):
            window.press("Tab")
            what = window.ask("document.activeElement.tagName + ' ' + (document.activeElement.id || '')")
            if what.startswith("SUMMARY"):
                was = window.ask("document.activeElement.parentNode.open")
                window.press("Enter")
                opened += window.ask("document.activeElement.parentNode.open") != was
            if what == "INPUT values2" and what not in reached:
                window.press(" ")
                window.wait_for("document.activeElement.checked", 5)
                shown = "getComputedStyle(document.querySelector('.t'), '::after').content"
                assert window.ask(shown) == '"+0.00"'
            reached.add(what.strip())
            outline = window.ask("getComputedStyle(document.activeElement).outlineStyle")
            assert what.startswith(("BODY", "TABLE")) or outline != "none", what
        assert {"A", "SUMMARY", "PRE", "INPUT values2"} <= reached and opened >= 6


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_and_curves_can_be_read_in_dark_and_light(page, scheme, tmp_path):
    with Page(page, 1280, folder=tmp_path) as window:
        window.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for selector, name in [("body", "color"), (".missing", "color"), ("svg text", "fill"), (".line", "stroke"),
                               ("a", "color"), (".quiet", "color")]:  # fmt: skip
            colours = window.ask(
                f"[getComputedStyle(document.querySelector('{selector}')).{name},"
                " getComputedStyle(document.body).backgroundColor]"
            )
            assert contrast(*colours) >= (3 if selector == ".line" else 4.5), (selector, colours)


def contrast(one: str, other: str) -> float:
    """Return the WCAG contrast ratio of two colours of the form rgb(r, g, b)."""

    def luminance(text: str) -> float:
        parts = [int(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
