"""RECIPE: a named group of settings, below what is given and above the job's defaults."""

import pytest

from jobs import demo_real
from sdpo import settings
from sdpo.errors import SettingError
from sdpo.settings.recipes import RECIPES, learning_rate_advice
from sdpo.settings.resolve import resolve
from tests.commands import JOBS

# The demo on a real model is the one job whose default is the recommended recipe.
TRAINING = [
    name
    for name, job in JOBS.items()
    if {"recipe", "teacher"} <= set(settings.settings_of(job.settings)) and not {"recipe", "tiny"} & set(job.defaults)
]


def resolved(name: str, *flags: str, tmp_path, **environment: str):
    job = JOBS[name]
    return resolve(
        job.settings, flags, job=job.name, defaults=job.defaults, tiny=job.tiny,
        environment=environment, dotenv=tmp_path / ".env",
    )  # fmt: skip


@pytest.mark.parametrize("name", TRAINING)
def test_a_recipe_sets_what_it_names_in_every_training_job(name, tmp_path):
    plain, cooked = resolved(name, tmp_path=tmp_path), resolved(name, "--recipe", "recommended", tmp_path=tmp_path)
    known = settings.settings_of(JOBS[name].settings)
    recipe = {item: value for item, value in RECIPES["recommended"].items() if item in known}
    assert set(RECIPES["recommended"]) - set(recipe) <= {"iterations", "content_weight"}  # of online training alone
    for item, value in recipe.items():
        assert getattr(cooked, item) == value and settings.source(cooked, item) == "RECIPE"
    changed = {item for item in known if getattr(plain, item) != getattr(cooked, item)}
    assert changed == {"recipe", *recipe} - {item for item, value in recipe.items() if getattr(plain, item) == value}


def test_the_paper_is_the_default_and_changes_nothing(tmp_path):
    for name in TRAINING:
        job = JOBS[name]
        default = resolved(name, tmp_path=tmp_path)
        assert default.recipe == "paper" and (default.teacher, default.objective) == ("live", "token")
        assert default == resolved(name, tmp_path=tmp_path) and job.defaults["lr"] == default.lr


def test_what_is_given_counts_before_the_recipe(tmp_path):
    name = "jobs.train_online_tldr"
    (tmp_path / ".env").write_text("LR=3e-6\n")
    cooked = resolved(name, "--recipe", "recommended", "--teacher", "live", tmp_path=tmp_path, OBJECTIVE="token")
    assert (cooked.teacher, cooked.objective, cooked.lr) == ("live", "token", 3e-6)
    assert cooked.learn_from == "complaints"
    tiny = resolved(name, "--recipe", "recommended", "--tiny", tmp_path=tmp_path)
    assert tiny.lr == JOBS[name].tiny["lr"] and tiny.null_contrast
    assert tiny.hindsight_template == "framed", "the tiny model knows no other template"


def test_a_recipe_in_the_environment_and_in_dotenv(tmp_path):
    name = "jobs.train_online_tldr"
    assert resolved(name, tmp_path=tmp_path, RECIPE="recommended").teacher == "frozen"
    (tmp_path / ".env").write_text("RECIPE=recommended\n")
    assert resolved(name, tmp_path=tmp_path).teacher == "frozen"
    with pytest.raises(SettingError, match="recommended"):
        resolved(name, "--recipe", "recomended", tmp_path=tmp_path)


def test_the_demos_own_model_has_its_own_learning_rate_and_any_other_that_of_the_recipe(tmp_path):
    job = JOBS["jobs.demo_real"]

    def learning_rate(*flags: str) -> float:
        return demo_real.with_learning_rate(resolved("jobs.demo_real", *flags, tmp_path=tmp_path), job).lr

    assert learning_rate() == demo_real.MODEL_LR == 2 * RECIPES["recommended"]["lr"]
    assert learning_rate("--lr", "3e-5") == 3e-5
    assert learning_rate("--model", "Qwen/Qwen2.5-0.5B-Instruct") == RECIPES["recommended"]["lr"]
    assert learning_rate("--recipe", "paper") == job.defaults["lr"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (400_000, None),
        (135e6, "135 million. One of 135 million learned better with LR=2e-4"),
        (494e6, None),
        (1.54e9, "1.5 billion. One of 1.5 billion moved too far"),
        (8.2e9, "has 8.2 billion"),
    ],
)
def test_the_learning_rate_is_advised_on_for_models_of_other_sizes(parameters, words):
    advice = learning_rate_advice(1e-4, int(parameters))
    assert advice is None if words is None else words in advice and "LR=0.0001" in advice
