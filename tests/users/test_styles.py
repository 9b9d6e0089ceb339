"""STYLE_FILE: personas of one's own, and the rules that check them."""

import json

import pytest

from jobs import audit, eval_tldr, learn, train_offline, train_online_tldr
from sdpo.english.markdown import count_words
from sdpo.english.oracle import EnglishOracle
from sdpo.errors import SettingError
from sdpo.runtime import launch
from sdpo.settings import AuditSettings
from sdpo.signal.annotator import Annotator
from sdpo.text.prompts import PERSONAS
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.data import logged
from sdpo.users.styles import own_styles, persona_of, personas
from tests.servers import FakeServer
from tests.worlds import rows_of

SOURCES = {
    "persona": "You want every answer to name its source, in at most 12 words.",
    "rule": {"matches": "(?i)source: \\w", "lacks": ["http", "!"], "most_words": 12, "least_words": 3},
    "complaints": ["Where is that from?", "Name the source, please."],
}


def file_of(folder, **styles):
    path = folder / "styles.json"
    path.write_text(json.dumps(styles), "utf-8")
    return path


def test_a_file_adds_personas_and_replaces_those_of_the_same_name(tmp_path):
    file = tmp_path / "styles.json"
    file.write_text(json.dumps({"rhyming": " I like {rhymes}. ", "poetic": "I like poems."}), "utf-8")
    known = personas(file)
    assert len(known) == len(PERSONAS) + 1
    assert persona_of("rhyming", file) == "I like {rhymes}."
    assert (known["poetic"], persona_of("poetic")) == ("I like poems.", PERSONAS["poetic"])
    assert personas(None) == PERSONAS


@pytest.mark.parametrize(
    "content, named",
    [
        (b"{", ""),
        (b"\xff", ""),
        (b"[]", "must hold a JSON object such as"),
        (b'{"messages": [{"role": "user", "content": "hi"}]}', "is a file of conversations. Prepare these with make"),
        (b'[{"messages": []}]', "is a file of conversations"),
        (b'{"messages": []}\n{"messages": []}', "has several lines of JSON, as conversations do."),
        (b'{"brief": 3}', "brief"),
        (b'{"brief": " "}', "brief"),
        (b'{" ": "text"}', ""),
        (None, ""),
        (b'{"mine": {"rule": {"most_words": 3}}}', "mine: the persona must be"),
        (b'{"mine": {"persona": "P.", "complaint": "C."}}', "complaint is unknown. Did you mean complaints?"),
        (b'{"mine": {"persona": "P.", "rule": {"most_words": 3}}}', "mine: with a rule it needs complaints"),
        (b'{"mine": {"persona": "P.", "complaints": []}}', "complaints must be one or more non-empty strings"),
        (b'{"mine": {"persona": "P.", "praise": [" "]}}', "praise must be one or more non-empty strings"),
        (b'{"mine": {"persona": "P.", "complaints": "C.", "rule": {}}}', "the rule must be an object"),
        (b'{"mine": {"persona": "P.", "complaints": "C.", "rule": {"max_words": 3}}}', "Did you mean most_words?"),
        (
            b'{"mine": {"persona": "P.", "complaints": "C.", "rule": {"most_words": true}}}',
            "most_words must",
        ),
        (b'{"mine": {"persona": "P.", "complaints": "C.", "rule": {"least_words": 0}}}', "least_words must"),
        (b'{"mine": {"persona": "P.", "complaints": "C.", "rule": {"least_words": 9, "most_words": 3}}}', "can fit"),
        (
            b'{"mine": {"persona": "P.", "complaints": "C.", "rule": {"lacks": ["a", "("]}}}',
            "( is no regular",
        ),
        (rb'{"mine": {"persona": "P.", "complaints": "C.", "rule": {"lacks": "\d"}}}', "JSON writes a backslash twice"),
    ],
)
def test_the_error_for_a_malformed_file_names_the_file_and_key(tmp_path, content, named):
    file = tmp_path / "styles.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError) as caught:
        personas(file)
    assert str(file) in str(caught.value) and named in str(caught.value)


def test_the_error_for_an_unknown_style_suggests_the_nearest():
    with pytest.raises(SettingError, match="Did you mean no_emojis"):
        persona_of("no_emoji", None)


@pytest.mark.parametrize(
    ("answer", "fits", "reason"),
    [
        ("It melts at zero. Source: a handbook", True, ""),
        ("It melts at zero.", False, "nothing matches"),
        ("It melts! Source: a handbook", False, "it has '!'"),
        ("See http://x.org, source: there", False, "it has 'http'"),
        ("Source: me", False, "2 words"),
        ("one two three four five six seven eight nine ten Source: a b", False, "13 words"),
        ("", False, "no word"),
    ],
)
def test_a_rule_of_ones_own_reads_answers(tmp_path, answer, fits, reason):
    own = own_styles(file_of(tmp_path, sources=SOURCES))["sources"]
    oracle = EnglishOracle("sources", own)
    assert oracle.fits(answer) is fits
    assert reason in oracle.checker.reason(answer) and bool(reason) is not fits
    assert oracle.verdict(answer, "It melts at zero. Source: a handbook") == ("C" if fits else "B")


def test_sentences_are_limited_too(tmp_path):
    style = {"persona": "P.", "rule": {"least_sentences": 2, "most_sentences": 3}, "complaints": "Two or three!"}
    oracle = EnglishOracle("paragraph", own_styles(file_of(tmp_path, paragraph=style))["paragraph"])
    assert [oracle.fits("It rains. " * count) for count in (1, 2, 3, 4)] == [False, True, True, False]


def test_its_user_complains_in_its_words_and_praises_in_its_own_or_the_shipped_ones(tmp_path):
    path = file_of(tmp_path, sources=SOURCES, german=SOURCES | {"praise": "Genau so."})
    for name, own in own_styles(path).items():
        oracle = EnglishOracle(name, own)
        good, bad = oracle.user(seed=1).react(["p", "p"], ["It is so. Source: me myself", "It is so."])
        assert (good.satisfied, bad.satisfied) == (True, False)
        assert bad.text in SOURCES["complaints"] and not oracle.is_satisfied(bad.text)
        assert oracle.is_satisfied(good.text) and (good.text == "Genau so.") is (name == "german")


def test_a_shipped_name_with_a_persona_of_ones_own_is_read_by_its_own_rule_alone(tmp_path):
    own = own_styles(
        file_of(tmp_path, brief="You like poems.", no_lists=SOURCES, one_sentence=PERSONAS["one_sentence"])
    )
    assert [EnglishOracle.reads("m", name, style) for name, style in own.items()] == [False, True, True]
    assert not EnglishOracle("no_lists", own["no_lists"]).fits("No list, and no source either.")


TINY_RUN = ["--tiny", "--train-n", "8", "--bs", "4", "--eval-n", "4", "--save-steps", "2", "--guard", "off"]


def test_online_training_evaluation_and_offline_training_use_the_rule(tmp_path, capsys):
    """On the shipped model, whose language the rule reads as any other."""
    style = {"persona": "You like long answers.", "rule": {"least_words": 9}, "complaints": ["More, please."]}
    given = ["--style", "wordy", "--style-file", str(file_of(tmp_path, wordy=style, other="Another."))]
    run = tmp_path / "run"
    flags = [*TINY_RUN, *given, "--user-model-name-or-path", "rule", "--output-dir", str(run)]
    assert launch.main(train_online_tldr.JOB, flags) == 0
    samples = rows_of(run / "samples.jsonl")
    fits = [count_words(row["completion"]) >= 9 for row in samples]
    assert {row["follow_up"] == "More, please." for row, fit in zip(samples, fits, strict=True) if not fit} == {True}
    assert not any(row["follow_up"] == "More, please." for row, fit in zip(samples, fits, strict=True) if fit)
    file_of(tmp_path, wordy=style | {"rule": {"least_words": 900}})  # another rule since: an evaluation uses the run's
    assert json.loads((run / "styles.json").read_text()) == {"wordy": style, "other": {"persona": "Another."}}
    out = tmp_path / "evaluation"
    flags = ["--tiny", "--run-dir", str(run), "--judge-model", "rule", "--eval-n", "4", "--output-dir", str(out)]
    assert launch.main(eval_tldr.JOB, flags) in (0, 7)
    shares = [row["adherence"] for row in json.loads((out / "eval.json").read_text())["condition"].values()]
    assert shares and min(shares) > 0
    assert launch.main(eval_tldr.JOB, [*flags, "--style", "other", "--dry-run"]) == 2  # it is in the run's file too
    assert "no rule checks STYLE=other" in capsys.readouterr().err
    flags = [*TINY_RUN, *given, "--output-dir", str(tmp_path / "offline")]
    assert launch.main(train_offline.JOB, flags) == 0
    assert "adherence" in capsys.readouterr().out


def test_a_style_of_ones_own_without_a_rule_needs_a_model_that_can_play_it(tmp_path, capsys):
    given = ["--style", "metric", "--style-file", str(file_of(tmp_path, metric="You want metric units.")), *TINY_RUN]
    assert launch.main(train_online_tldr.JOB, [*given, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "STYLE=metric of" in said and "is not in the tiny world" in said and "Set SIMULATOR_URL to" in said
    elsewhere = ["--simulator-url", "http://127.0.0.1:9/v1"]  # is still asked for the tiny model
    assert launch.main(train_online_tldr.JOB, [*given, *elsewhere, "--dry-run"]) == 0
    noted = capsys.readouterr().out
    assert noted.startswith("note: STYLE=metric of") and "Set USER_MODEL_NAME_OR_PATH to a model of the server" in noted
    able = ["--user-model-name-or-path", "Qwen/Qwen3-4B"]
    assert launch.main(train_online_tldr.JOB, [*given, *elsewhere, *able, "--dry-run"]) == 0
    assert "note: STYLE=metric" not in capsys.readouterr().out
    assert launch.main(train_online_tldr.JOB, [*given, "--dry-run", "--user-model-name-or-path", "rule"]) == 2
    assert "give your own a rule in STYLE_FILE" in capsys.readouterr().err


def test_what_is_missing_for_a_style_of_ones_own_in_the_tiny_world_is_named(tmp_path, capsys):
    path = file_of(tmp_path, nine=SOURCES, short="You like answers of one word.")
    given = ["--style-file", str(path), *TINY_RUN, "--dry-run"]
    assert launch.main(train_online_tldr.JOB, [*given, "--style", "nine"]) == 2
    assert "cannot play the user. Set USER_MODEL_NAME_OR_PATH=rule." in capsys.readouterr().err
    assert launch.main(train_online_tldr.JOB, [*given, "--style", "nin"]) == 2
    assert "Did you mean nine?" in capsys.readouterr().err
    # A persona of one's own is not what the shipped rule of the same name checks.
    assert launch.main(train_online_tldr.JOB, [*given, "--style", "short", "--user-model-name-or-path", "rule"]) == 2
    assert "no rule checks STYLE=short" in capsys.readouterr().err


def test_the_audit_reads_answers_with_the_rule_and_refuses_a_style_without_one(tmp_path, capsys):
    path = file_of(tmp_path, metric="You want metric units.", sources=SOURCES)
    given = ["--data", str(path), "--model", str(MODEL_DIR), "--judge-model", "rule", "--style-file", str(path)]
    assert launch.main(audit.JOB, [*given, "--style", "metric", "--dry-run"]) == 2
    assert "STYLE metric cannot be read in English" in capsys.readouterr().err
    tiny = ["--tiny", "--judge-model", "rule", "--style", "sources", "--style-file", str(path), "--dry-run"]
    assert launch.main(audit.JOB, tiny) == launch.main(learn.JOB, tiny) == 0
    assert launch.main(audit.JOB, ["metric" if word == "sources" else word for word in tiny]) == 2
    annotator = Annotator(AuditSettings(model="m", judge_model="rule", style="sources", style_file=path), tmp_path)
    rows = logged(2, seed=1)
    good, bad = "At zero. Source: a handbook", "At zero."
    assert annotator.preferred(rows, [good, bad], [bad, good], None) == ["first", "second"]


def test_a_model_behind_a_server_plays_a_style_of_ones_own_for_the_tiny_model_too(tmp_path):
    styles = file_of(tmp_path, metric="You want metric units.")
    with FakeServer() as server:
        given = ["--style", "metric", "--style-file", str(styles), "--simulator-url", server.url, "--user-trial", "off"]
        assert launch.main(train_online_tldr.JOB, [*TINY_RUN, *given, "--output-dir", str(tmp_path / "run")]) == 0
    asked = {
        message["content"] for body in server.bodies for message in body["messages"] if message["role"] == "system"
    }
    assert len(asked) == 1 and "You want metric units." in asked.pop()
