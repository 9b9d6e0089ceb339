"""The precedence of sources of settings, the errors, and that secrets stay secret."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from sdpo import settings
from sdpo.errors import SettingError
from sdpo.llm import read_prices
from sdpo.settings import OnlineSettings, SimulatorSettings, elsewhere
from sdpo.settings import resolve as resolve_module
from sdpo.settings.inputs import read_template
from sdpo.signal.cases import read_cases
from sdpo.users.styles import own_styles

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-value-that-must-not-appear"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def resolve(*arguments, kind=OnlineSettings, environment=None, dotenv=None, **options):
    if dotenv is not None:
        Path(".env").write_text(dotenv, "utf-8")
    return resolve_module.resolve(kind, arguments, job="a-job", environment=environment or {}, **options)


def refusal(*arguments, **options):
    with pytest.raises(SettingError) as caught:
        resolve(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_home_folder_is_expanded_where_no_shell_did_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    given = resolve("--user-model-name-or-path", "~/user", dotenv="MODEL=~/models/mine\n")
    assert given.model == "/home/ann/models/mine" and given.user_model_name_or_path == "/home/ann/user"
    assert resolve("--null-follow-up", "see ~/notes").null_follow_up == "see ~/notes"


# The sources, highest precedence first: the arguments that set LR through the source, and its name.
SOURCES = [
    ({"arguments": ["--lr", "{}"]}, "flag"),
    ({"environment": {"LR": "{}"}}, "environment"),
    ({"tiny": {"lr": "{}"}}, "TINY"),
    ({"dotenv": "LR={}"}, ".env, line 1"),
    ({"defaults": {"lr": "{}"}}, "job"),
]


def _filled(source, value):
    return json.loads(json.dumps(source).replace("{}", value))


@pytest.mark.parametrize("higher", range(len(SOURCES)))
def test_a_source_takes_precedence_over_all_lower_ones(higher):
    for lower in range(higher + 1, len(SOURCES)):
        options = _filled(SOURCES[lower][0], "0.25") | _filled(SOURCES[higher][0], "0.5")
        options.setdefault("environment", {})["TINY"] = "1"
        arguments = options.pop("arguments", [])
        resolved = resolve(*arguments, **options)
        assert resolved.lr == 0.5
        assert settings.source(resolved, "lr") == SOURCES[higher][1]
        Path(".env").unlink(missing_ok=True)


def test_without_a_source_the_declared_default_applies():
    resolved = resolve()
    assert resolved.lr == 5e-6
    assert settings.source(resolved, "lr") == "default"


def test_tiny_values_apply_only_with_tiny_on():
    tiny = {"lr": 0.5}
    assert resolve(tiny=tiny).lr == 5e-6
    assert resolve("--tiny", tiny=tiny).lr == 0.5
    assert resolve("--tiny", "0", tiny=tiny, environment={"TINY": "1"}).lr == 5e-6
    assert resolve(tiny=tiny, dotenv="TINY=yes").lr == 0.5


def test_a_make_variable_takes_precedence_over_the_environment():
    inherited = {"WORLD_SIZE": "8", "GPUS": "2", resolve_module.MAKE_VARIABLES: "GPUS"}
    resolved = resolve(environment=inherited)
    assert resolved.world_size == 2
    assert settings.source(resolved, "world_size") == settings.MAKE


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_value_counts_as_not_given(empty):
    assert resolve("--lr", empty, environment={"BS": empty}, dotenv=f"GA={empty}\nSTYLE=", defaults={"bs": 7}).bs == 7


def test_a_setting_and_its_alias_are_the_same():
    assert resolve("--gpus", "3").world_size == resolve("--world-size", "3").world_size == 3
    assert resolve("--gpus", "3", "--world-size", "3").world_size == 3
    assert resolve("--gpus", "3", environment={"WORLD_SIZE": "4"}).world_size == 3
    message = refusal("--gpus", "3", "--world-size", "4")
    assert "GPUS" in message and "WORLD_SIZE" in message


def test_a_data_folder_sets_both_files_unless_they_are_given():
    Path("rows").mkdir()
    resolved = resolve("--data-path", "rows", "--val-jsonl", "mine.jsonl", defaults={"train_jsonl": "elsewhere"})
    assert (resolved.train_jsonl, resolved.val_jsonl) == (Path("rows/train.jsonl"), Path("mine.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "environment", "dotenv", "named"),
    [
        (["--lrr", "1"], {}, "", "--lr"),
        (["--train_n", "1"], {}, "", "--train-n"),
        ([], {resolve_module.MAKE_VARIABLES: "TRAINN PYTHON HF_HOME", "TRAINN": "1", "HF_HOME": "x"}, "", "TRAIN_N"),
        ([], {resolve_module.MAKE_VARIABLES: "style", "style": "1"}, "", "STYLE"),
        ([], {}, "HF_HOME=x\nCONCURENCY=1", "CONCURRENCY"),
        ([], {}, "lr=1", "LR"),
        ([], {}, "HF_TOKN=1", "HF_TOKEN"),
        ([], {}, "ANTHROPIC_API_KEYS=1", "ANTHROPIC_API_KEY"),
    ],
)
def test_an_unknown_name_is_rejected_with_the_nearest_known_one(arguments, environment, dotenv, named):
    message = refusal(*arguments, environment=environment, dotenv=dotenv)
    assert f"{named}?" in message


@pytest.mark.parametrize(
    ("arguments", "environment", "dotenv", "ours"),
    [
        (["--per_device_train_batch_size", "4"], {}, "", "--bs"),
        (["--per-device-train-batch-size", "4"], {}, "", "--bs"),
        (["GRADIENT_ACCUMULATION_STEPS=4"], {}, "", "GA"),
        ([], {resolve_module.MAKE_VARIABLES: "LOGGING_STEPS", "LOGGING_STEPS": "2"}, "", "LOG_STEPS"),
        ([], {}, "MAX_NEW_TOKENS=64", "MAX_COMPLETION_TOKENS"),
        (["--num_processes", "2"], {}, "", "--gpus"),
    ],
)
def test_a_name_of_another_trainer_is_answered_with_ours(arguments, environment, dotenv, ours):
    assert f"Here it is {ours}." in refusal(*arguments, environment=environment, dotenv=dotenv)


def test_names_of_other_trainers_stand_for_settings_and_are_none_themselves():
    known = settings.known_names()
    assert set(elsewhere.OUR_NAMES.values()) <= set(known)
    assert not set(elsewhere.OUR_NAMES) & set(known)


def test_a_variable_that_is_almost_a_setting_is_found():
    environment = {"RECEIPE": "paper", "TRAINN": "3", "LR": "1", "LRR": "1", "HOME": "/", "HF_TOKEN": "x", "STYLE": "y"}
    assert resolve_module.misspelt(OnlineSettings, environment) == [("RECEIPE", "RECIPE"), ("TRAINN", "TRAIN_N")]


def test_a_secret_on_make_s_command_line_is_refused_and_not_repeated():
    message = refusal(environment={resolve_module.MAKE_VARIABLES: "HF_TOKEN", "HF_TOKEN": "s3cr3t"})
    assert "the Make variable HF_TOKEN" in message and "export HF_TOKEN=..." in message and "s3cr3t" not in message


def test_a_setting_of_another_job_is_rejected_if_given_to_this_one_directly():
    assert "--style" in refusal("--style", "poetic", kind=SimulatorSettings)
    made = {resolve_module.MAKE_VARIABLES: "STYLE", "STYLE": "poetic"}
    assert "STYLE" in refusal(kind=SimulatorSettings, environment=made)
    assert resolve(kind=SimulatorSettings, environment={"STYLE": "poetic"}, dotenv="LR=1\nGPUS=2").port == 8000


def test_other_programs_variables_in_dotenv_are_exported():
    text = f"HF_HOME=/models\nhttp_proxy=http://p\nWANDB_API_KEY={SECRET}\nHF_TOKEN=\nCOMPOSE_FILE=x\nLR=1\n"
    resolve(dotenv=text)
    environment = {"COMPOSE_FILE": "mine", "ANTHROPIC_API_KEY": ""}
    resolve_module.export_dotenv(environment=environment)
    assert environment == {
        "HF_HOME": "/models",
        "http_proxy": "http://p",
        "WANDB_API_KEY": SECRET,
        "COMPOSE_FILE": "mine",
    }
    environment = {}
    resolve_module.export_dotenv(environment=environment, secrets=False)
    assert SECRET not in environment.values() and environment["HF_HOME"] == "/models"


def test_files_that_settings_name_may_begin_with_a_byte_order_mark(tmp_path):
    def marked(text: str) -> Path:
        path = tmp_path / "file"
        path.write_bytes(text.encode("utf-8-sig"))  # as Notepad saves it
        return path

    case = {"id": "a", "tag": "constrain", "raw_prompt": "x", "unrelated_followup": "u", "feedback_followup": "f"}
    assert [one.id for one in read_cases(marked(json.dumps([case])))] == ["a"]
    assert own_styles(marked('{"mine": "I like rhymes."}')).keys() == {"mine"}
    assert read_prices(marked('{"mine": {"in": 1, "out": 2}}')).keys() == {"mine"}
    assert read_template("system", marked("({follow_up})")).text == "({follow_up})"


def test_dotenv_is_parsed_like_python_dotenv_and_errors_name_the_line():
    resolved = resolve(dotenv="\ufeffRUN_ID='a-b' # note\nexport MODEL_NAME_OR_PATH=a/$HOME\n")
    assert (resolved.run_id, resolved.model) == ("a-b", "a/$HOME")
    assert "line 3" in refusal(dotenv="# a note\n\nLR=much\n")
    assert "line 2" in refusal(dotenv="LR=1\nthis is no setting\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("lr", value) for value in ("0", "-1", "nan", "inf", "1e999", "1_0", "fast", "0x1")),
        *(("bs", value) for value in ("0", "-3", "1.5", "1e3", "two", "9" * 30, "٣")),
        *(("tiny", value) for value in ("2", "on", "maybe")),
        *(("teacher", value) for value in ("Live", "dead")),
        *(("run_id", value) for value in ("a/b", "..", ".hidden", "a b", "-x")),
        *(("simulator_url", value) for value in ("localhost:8000", "ftp://x", "http://")),
        *((name, "not-there") for name in ("accelerate_config", "style_file", "hindsight_file", "data_path")),
        ("seed", "-1"),
        ("user_temperature", "-0.1"),
    ],
)
def test_an_invalid_value_is_rejected_with_name_value_and_source(name, value):
    for message in (
        refusal(f"{settings.flag(name)}={value}"),
        refusal(environment={name.upper(): value}),
        refusal(defaults={name: value}),
    ):
        assert name.upper() in message and value in message
    assert "line 1" in refusal(dotenv=f"{name.upper()}={value}")


def test_a_hindsight_template_must_contain_the_follow_up_placeholder():
    Path("template").write_text("nothing to fill in")
    assert "{follow_up}" in refusal("--hindsight-file", "template")
    Path("template").write_text("seen: {follow_up}")
    assert resolve("--hindsight-file", "template").hindsight_file == Path("template")


def test_job_defaults_for_unknown_settings_are_a_bug():
    with pytest.raises(TypeError):
        resolve(kind=SimulatorSettings, defaults={"lr": 1})


def test_secrets_have_no_flag_and_are_never_shown(capsys):
    secrets = ("WANDB_API_KEY", "HF_TOKEN", "ANTHROPIC_API_KEY")
    environment = dict.fromkeys(secrets[:2], SECRET)
    resolved = resolve(environment=environment, dotenv=f"ANTHROPIC_API_KEY={SECRET}")
    assert resolved.wandb_api_key == resolved.hf_token == resolved.anthropic_api_key == SECRET
    shown = [
        repr(resolved),
        settings.table(resolved),
        json.dumps(settings.redacted(resolved)),
        str(settings.given(resolved)),
    ]
    for name in secrets:
        flag = settings.flag(name.lower())
        shown += [refusal(f"{flag}={SECRET}"), refusal(flag, SECRET)]
    with pytest.raises(SystemExit) as ended:
        resolve("--help", environment=environment)
    assert ended.value.code == 0
    shown.append(capsys.readouterr().out)
    assert not any(SECRET in text for text in shown)
    # An added or removed credential must not count as a changed setting of a run.
    assert settings.redacted(resolved) == settings.redacted(resolve(dotenv=""))


def test_given_values_are_distinguished_from_defaults():
    resolved = resolve("--tiny", "--lr", "1", dotenv="BS=2", tiny={"ga": 3}, defaults={"style": "poetic"})
    assert settings.given(resolved) == {"tiny": True, "lr": 1.0, "bs": 2}


def test_redacted_settings_survive_json():
    plain = settings.redacted(resolve("--style-file", __file__, "--train-jsonl", "a.jsonl"))
    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == set(settings.settings_of(OnlineSettings))


def test_the_example_file_names_every_setting_and_is_valid():
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    named = {line.removeprefix("# ").partition("=")[0] for line in lines if "=" in line}
    declared = {item.name.upper(): item for item in settings.known_names().values()}
    assert set(declared) <= named
    active = {line.partition("=")[0]: line.partition("=")[2] for line in lines if line and not line.startswith("#")}
    assert active == {name: "" for name, item in declared.items() if item.secret}
    # With every line uncommented, the settings still equal the defaults.
    everything = "\n".join(
        line.removeprefix("# ") for line in lines if line.removeprefix("# ").partition("=")[0] in declared
    )
    assert resolve(dotenv=everything) == resolve(dotenv="")


def test_settings_import_nothing_heavy():
    probe = (
        "import sys, sdpo.settings.resolve\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT).returncode == 0


DECLARED = settings.settings_of(OnlineSettings)


@given(st.integers(min_value=1, max_value=10**17))
def test_integers_are_parsed_exactly(number):
    assert DECLARED["train_n"].parse(str(number)) == number


@given(st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False))
def test_floats_are_parsed_exactly(number):
    assert DECLARED["lr"].parse(repr(number)) == number


@given(st.sampled_from(["1", "true", "yes", "0", "false", "no"]), st.data())
def test_booleans_are_parsed_in_any_case(word, data):
    mixed = "".join(data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in word)
    assert DECLARED["tiny"].parse(mixed) is (word in ("1", "true", "yes"))


@given(st.text(max_size=12))
def test_any_text_is_rejected_or_a_finite_number_in_range(text):
    for name in ("lr", "bs", "tiny"):
        try:
            value = DECLARED[name].parse(text)
        except ValueError:
            continue
        assert type(value) is DECLARED[name].kind
        assert math.isfinite(value) and (name == "tiny" or value > 0)


@pytest.mark.parametrize(
    "value", ["${HOME}/m", "'${HOME}/m'", '"${HOME}/m"', "${NOT_SET_ANYWHERE:-x}/m", "${OWN}/m", "a/${}"]
)
def test_variables_in_dotenv_are_expanded_as_python_dotenv_does(value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    text = f"HF_HOME=/models\nPIP_X=${{HF_HOME}}/x\nMODEL_NAME_OR_PATH={value}\n"
    Path(".env").write_text(text)
    expected = dotenv_values(".env", interpolate=True)
    assert resolve(dotenv=text).model == expected["MODEL_NAME_OR_PATH"]
    environment = {}
    resolve_module.export_dotenv(environment=environment)
    assert environment["PIP_X"] == expected["PIP_X"] == "/models/x"


def test_the_last_value_in_dotenv_counts_for_settings_and_for_other_programs():
    text = "ANTHROPIC_API_KEY=first\nHF_HOME=/a\nLR=1\nANTHROPIC_API_KEY=last\nHF_HOME=/b\nLR=2\nANTHROPIC_API_KEY=\n"
    resolved = resolve(dotenv=text)
    environment = {}
    resolve_module.export_dotenv(environment=environment)
    assert resolved.anthropic_api_key == environment["ANTHROPIC_API_KEY"] == "last"
    assert environment["HF_HOME"] == "/b" and resolved.lr == 2.0
