"""HINDSIGHT_TEMPLATE and TEMPLATES in each job: what they stand for, and which names are refused."""

import dataclasses
import typing

import pytest

from jobs.audit import JOB as AUDIT
from sdpo.errors import SettingError
from sdpo.settings.common import Template
from sdpo.settings.inputs import read_template
from sdpo.settings.resolve import resolve
from sdpo.signal import audit
from sdpo.text.hindsight import HindsightTemplate, template_named
from sdpo.text.prompts import HINDSIGHT_TEMPLATES
from tests.commands import JOBS

WITH_TEMPLATE = sorted(
    name
    for name, job in JOBS.items()
    if "hindsight_template" in {field.name for field in dataclasses.fields(job.settings)}
)


def settings_of(job, *flags: str):
    return resolve(job.settings, flags, job=job.name, defaults=job.defaults, tiny=job.tiny, environment={})


def test_the_setting_allows_exactly_the_shipped_names():
    assert typing.get_args(Template) == tuple(HINDSIGHT_TEMPLATES)


def test_the_jobs_that_show_hindsight_have_the_setting():
    kinds = ("audit", "chat", "demo_real", "signal_analysis", "train_")
    named = {name for name in JOBS if name.removeprefix("jobs.").startswith(kinds)}
    assert sorted(named | {"jobs.demo"}) == WITH_TEMPLATE


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_each_job_takes_every_shipped_template_and_a_file_at_its_place(name, empty_folder, tmp_path):
    (tmp_path / "own.txt").write_text("({follow_up})")
    for template, (place, text) in HINDSIGHT_TEMPLATES.items():
        settings = settings_of(JOBS[name], "--hindsight-template", template)
        assert read_template(settings.hindsight_template, settings.hindsight_file) == HindsightTemplate(text, place)
        settings = settings_of(JOBS[name], "--hindsight-template", template, "--hindsight-file", "own.txt")
        shown = read_template(settings.hindsight_template, settings.hindsight_file)
        assert shown == HindsightTemplate("({follow_up})", place)


@pytest.mark.parametrize("name", WITH_TEMPLATE)
@pytest.mark.parametrize("tiny", [False, True])
def test_the_tiny_world_keeps_the_words_its_model_was_trained_with(name, tiny, empty_folder):
    if tiny and not JOBS[name].tiny:
        pytest.skip("this job has no TINY values")
    settings = settings_of(JOBS[name], *(["--tiny"] if tiny else []))
    assert settings.hindsight_template == ("framed" if settings.tiny else "before")


@pytest.mark.parametrize("name", WITH_TEMPLATE)
@pytest.mark.parametrize(
    ("given", "meant"), [("befor", "before"), ("earlier-turn", "earlier_turn"), ("FRAMED", "framed")]
)
def test_an_unknown_template_is_refused_with_the_nearest_name(name, given, meant, empty_folder):
    with pytest.raises(SettingError) as caught:
        settings_of(JOBS[name], "--hindsight-template", given)
    message = str(caught.value)
    assert f"HINDSIGHT_TEMPLATE={given}" in message and f"Did you mean {meant}?" in message and "\n" not in message


# The audit's TEMPLATES


def test_the_audit_compares_shipped_templates_and_files(empty_folder, tmp_path):
    (tmp_path / "own.txt").write_text("({follow_up})")
    (tmp_path / "more words.txt").write_text("[{follow_up}]")
    flags = ["--hindsight-template", "system", "--templates", "after own.txt earlier_turn 'more words.txt'"]
    assert audit.templates(settings_of(AUDIT, *flags)) == {
        "shipped": template_named("system"),
        "after": template_named("after"),
        "own.txt": HindsightTemplate("({follow_up})", "system"),
        "earlier_turn": template_named("earlier_turn"),
        "more words.txt": HindsightTemplate("[{follow_up}]", "system"),
    }
    # HINDSIGHT_FILE is one more file; the reference stays the shipped text.
    flags = ["--hindsight-template", "before", "--hindsight-file", "own.txt"]
    assert audit.templates(settings_of(AUDIT, *flags)) == {
        "shipped": template_named("before"),
        "own.txt": HindsightTemplate("({follow_up})", "before"),
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("befor", ("befor", "Did you mean before?")),
        ("after framd", ("framd", "Did you mean framed?")),
        ("nothing-alike.txt", ("nothing-alike.txt", "earlier_turn, system, before, after, framed")),
    ],
)
def test_a_template_that_does_not_exist_is_refused(given, words, empty_folder):
    with pytest.raises(SettingError) as caught:
        audit.templates(settings_of(AUDIT, "--templates", given))
    message = str(caught.value)
    assert all(word in message for word in ("TEMPLATES", *words)) and "\n" not in message
