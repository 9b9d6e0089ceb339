"""The audit's page at the width of a phone, and what an audit ends with."""

from itertools import pairwise

import pytest

from jobs.audit import JOB as AUDIT
from sdpo.settings.resolve import resolve
from sdpo.signal.audit_ending import best_candidate, example_answers, next_command, sentence
from sdpo.signal.audit_page import PLACES, SHOWN, write_audit_page
from sdpo.signal.verdict import THRESHOLDS
from tests.browser import Page, needs_browser

PIXEL = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x04\0\0\0\0\1\x08\0\0\0\0\xd6v\x85\xb4\0\0\0\x0cIDATx\x9cc`\xa0\x1f\0\0\x04\x01"
    b"\0\1"
)


def figure(value: float) -> dict:
    return {"value": value, "interval": (value - 0.123456, value + 0.123456)}


def candidate(verdict: str = "go with changes", cause: str | None = None, share: float = 0.8) -> dict:
    texts = ("Write a long answer to this question, please. " * 4, "That is far too long for me, cut it.")
    examples = [
        {"prompt": texts[0], "follow_up": texts[1], "without": "Certainly! " * 30, "with": "Short it is."}
    ] * 3  # fmt: skip
    figures = {
        "size": {name: figure(0.1234) for name in SHOWN},
        "telling": {"size": 0.1234, "rows": 42, "of": "complaint or thanks"},
        "relevance": figure(3.2), "specificity": figure(2.1), "template_share": figure(0.4),
        "kinds": {kind: {"rows": 12, "size": 0.2, "carrying": 0.5} for kind in ("complaint", "thanks", "new topic")},
        "places": dict.fromkeys(PLACES, 0.25),
        "preference": {"share": share, "interval": (0.7, 0.9), "wins": 32, "losses": 8, "ties": 2, "pairs": 42,
                       "examples": examples},
    }  # fmt: skip
    changes = [{"setting": "NULL_CONTRAST=1", "why": "the template alone makes a signal"}]
    changes += [{"setting": "keep GUARD=stop", "why": "half of the signal is on the end token"}]
    return {"model": "organisation/a-model-with-a-long-name-0.5B-Instruct", "template": "before", "verdict": verdict,
            "cause": cause, "reasons": ["The true follow-up makes 3.20 times as large a signal."], "changes": changes,
            "figures": figures}  # fmt: skip


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_needs_no_scrolling_sideways_and_its_tables_are_apart(tmp_path, width):
    (tmp_path / "audit.png").write_bytes(PIXEL)
    result = {"data": "data/logs/logs_interactions.jsonl", "interactions": 1000, "sampled": 100,
              "templates": {"before": {"place": "before", "text": "{follow_up}"}}, "thresholds": vars(THRESHOLDS),
              "candidates": [candidate(), candidate("stop", "model")]}  # fmt: skip
    write_audit_page(tmp_path / "audit.html", result, tmp_path / "audit.png")
    with Page(tmp_path / "audit.html", width) as page:
        assert page.errors() == []
        assert page.ask("document.documentElement.scrollWidth <= innerWidth")
        wide = "[...document.querySelectorAll('table, pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert page.ask(wide) == 0
        boxes = page.ask("[...document.querySelectorAll('table')].map(e => e.getBoundingClientRect())"
                         ".map(b => [b.top, b.bottom])")  # fmt: skip
        assert len(boxes) == 10
        assert all(later[0] - earlier[1] >= 16 for earlier, later in pairwise(boxes))
        label = "getComputedStyle(document.querySelector('td.number'), '::before').content"
        assert ("mean |signal|" in page.ask(label) or "verdict" in page.ask(label)) == (width == 390)
        assert (page.ask("document.querySelector('tr.head').offsetHeight") == 0) == (width == 390)


def test_an_audit_ends_with_its_verdict_and_the_command_that_follows_from_it():
    settings = settings_of_audit("--data", "data/mine.jsonl", "--hindsight-template", "before")
    stopped, good = candidate("stop", "model", share=0.9), candidate()
    assert best_candidate([stopped, good]) is good
    assert sentence(good).startswith("go with changes: organisation/a-model")
    assert "0.80 of these answers are preferred" in sentence(good)
    then, _ = next_command(good, settings)
    assert then == (
        "make train-offline MODEL=organisation/a-model-with-a-long-name-0.5B-Instruct "
        "TRAIN_JSONL=data/mine.jsonl HINDSIGHT_TEMPLATE=before NULL_CONTRAST=1"
    )
    assert next_command(candidate("stop", "template"), settings)[0].startswith("make audit MODEL=organisation/")
    assert "TEMPLATES=" in next_command(candidate("stop", "template"), settings)[0]
    assert next_command(candidate("stop", "data"), settings)[0] == "make prep-logs INPUT=..."
    assert next_command(stopped, settings)[0] == "make audit MODEL=... DATA=data/mine.jsonl HINDSIGHT_TEMPLATE=before"
    tiny = settings_of_audit("--tiny", "--data", "x", "--judge-model", "rule", "--style", "short")
    assert next_command(good, tiny)[0] == "make train-offline NULL_CONTRAST=1 TINY=1"
    assert next_command(stopped, tiny)[0] == "make audit MODEL=... DATA=x JUDGE_MODEL=rule STYLE=short TINY=1"


def test_training_after_an_audit_has_the_target_that_was_audited():
    given = ("--recipe", "recommended", "--contrast-strength", "2.5", "--judge-model", "rule", "--style", "brief")
    settings = settings_of_audit("--data", "mine.jsonl", *given)
    changes = [{"setting": "DIRECTION=forward", "why": "w"}, {"setting": "CONTRAST_STRENGTH=1", "why": "w"}]
    then, _ = next_command(candidate() | {"model": "m", "changes": changes}, settings)
    assert then == (
        "make train-offline MODEL=m TRAIN_JSONL=mine.jsonl RECIPE=recommended CONTRAST_STRENGTH=1 DIRECTION=forward"
    )
    again, _ = next_command(candidate("stop", "model"), settings)
    assert again == (
        "make audit MODEL=... DATA=mine.jsonl RECIPE=recommended CONTRAST_STRENGTH=2.5 JUDGE_MODEL=rule STYLE=brief"
    )


def settings_of_audit(*flags):
    return resolve(AUDIT.settings, flags, job=AUDIT.name, defaults=AUDIT.defaults, tiny=AUDIT.tiny, environment={})


def test_an_audit_shows_answers_with_and_without_hindsight_side_by_side(monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    lines = example_answers([candidate()]).splitlines()
    assert any(line.startswith("without hindsight ") and line.endswith("| with hindsight") for line in lines)
    assert any("| Short it is." in line for line in lines)
    assert max(map(len, lines)) <= 90
