"""A user is tried on answers of which it is known whether they fit: models behind real HTTP that reply by a script."""

import json
from random import Random

import pytest

from sdpo.english.checkers import CHECKERS, checker_of
from sdpo.english.oracle import EnglishOracle
from sdpo.english.probes import probes as english_probes
from sdpo.english.styles import complaints, praise
from sdpo.english.users import StyleUser
from sdpo.llm import Client, OpenAIBackend
from sdpo.text.prompts import PERSONAS, USER_SYSTEM
from sdpo.tiny.oracle import tiny_personas
from sdpo.tiny.world import TinyOracle
from sdpo.users.language import language_of
from sdpo.users.simulator import FollowUp, SimulatedUser
from sdpo.users.trial import PROBES, Probe, Trial, choose_probes, read_reaction
from tests.servers import Answer, FakeServer, prompt_of

SEEDS = range(10)
STYLE = "brief"
PROBE = Probe("How do I keep bread fresh?", "Keep the loaf in a paper bag at room temperature.", True)


def exchange(body: dict) -> tuple[str, str]:
    """Return the prompt and the answer that a request is about."""
    prompt, _, rest = prompt_of(body).removeprefix("My request:\n").partition("\n\nThe answer:\n")
    return prompt, rest.removesuffix("\n\nMy reaction:")


def fits(body: dict) -> bool:
    prompt, answer = exchange(body)
    return checker_of(STYLE).fits(answer, prompt)


def by_rule(body: dict, number: int) -> str:
    """Reply as the rule says, now and then wrongly."""
    right = fits(body) is (number % 10 != 9)
    return Random(number).choice(praise() if right else complaints(STYLE))


def stated(form):
    """Return a script that states by the rule whether the user is satisfied; its words say nothing."""
    return lambda body, number: form(fits(body), "So much for bread and swimming.")


def copied_instructions(body: dict, number: int) -> str:
    words = body["messages"][0]["content"].split()
    return " ".join(words[number % 20 : number % 20 + 14])


GOOD = {
    "by rule": by_rule,
    "JSON": stated(lambda happy, text: json.dumps({"satisfied": happy, "message": text})),
    "a line": stated(lambda happy, text: f"Satisfied: {'yes' if happy else 'no'}\n{text}"),
}
BAD = {
    "repeats its instructions": (copied_instructions, ["right", "repeat"]),
    "repeats the answer": (lambda body, number: "I like it. " + exchange(body)[1], ["repeat"]),
    "praises everything": (lambda body, number: Random(number).choice(praise()), ["right"]),
    "states that it likes everything": (
        lambda body, number: '{"satisfied": true, "message": "Nice."}',
        ["right"],
    ),
    "does the task": (lambda body, number: "Bread stays fresh in a box, and the sky scatters blue light.", ["right"]),
    "is silent": (lambda body, number: " \n", ["right", "empty"]),
    "writes German": (
        lambda body, number: "Das ist mir zu lang, bitte fasse dich kürzer.",
        ["right", "language"],
    ),
    "states it in German": (
        lambda body, number: json.dumps({"satisfied": fits(body), "message": "Das ist nicht, was ich wollte."}),
        ["language"],
    ),
    "goes on and on": (
        lambda body, number: by_rule(body, number) + " So I say again" * 20,
        ["60 words"],
    ),
}


def try_over_http(script, style: str, seed: int, states: bool = True) -> Trial:
    """Return the trial of a model whose server replies by the script."""
    oracle = EnglishOracle(style)
    chosen = choose_probes(oracle.probes(seed), oracle.fits, seed)
    with FakeServer(lambda body, number: Answer(script(body, number))) as server:
        user = SimulatedUser(Client(OpenAIBackend(server.url, "m")), PERSONAS[style], 0.7, 128, states)
        follow_ups = user.react([probe.prompt for probe in chosen], [probe.answer for probe in chosen])
    return Trial(chosen, follow_ups)


@pytest.mark.parametrize("name", GOOD)
def test_a_user_that_follows_the_rule_passes_with_ten_of_ten_seeds(name):
    trials = [try_over_http(GOOD[name], STYLE, seed) for seed in SEEDS]
    assert [trial.failures() for trial in trials] == [[]] * len(SEEDS)
    assert all(len(trial.reactions) == PROBES and trial.figures()["right"] >= 0.85 for trial in trials)
    assert not any("atisfied" in reaction.reply for trial in trials for reaction in trial.reactions)


@pytest.mark.parametrize("name", BAD)
def test_a_user_that_teaches_noise_fails_with_ten_of_ten_seeds(name):
    script, reasons = BAD[name]
    for seed in SEEDS:
        failures = try_over_http(script, STYLE, seed).failures()
        assert all(any(reason in failure for failure in failures) for reason in reasons), failures


def test_without_the_question_the_words_decide():
    assert try_over_http(by_rule, STYLE, 0, states=False).failures() == []
    plain = try_over_http(GOOD["a line"], STYLE, 0, states=False)
    assert all(reaction.reply.startswith("Satisfied: ") for reaction in plain.reactions)


@pytest.mark.parametrize("style", CHECKERS)
def test_the_rule_user_passes_in_every_style(style):
    oracle = EnglishOracle(style)
    for seed in SEEDS:
        chosen = choose_probes(oracle.probes(seed), oracle.fits, seed)
        assert sum(probe.fits for probe in chosen) == PROBES // 2 == len(chosen) // 2
        follow_ups = StyleUser(style, seed).react([p.prompt for p in chosen], [p.answer for p in chosen])
        trial = Trial(chosen, follow_ups)
        assert trial.failures() == [] and trial.figures()["right"] == 1
        # Read by its words alone, the same user passes too.
        assert Trial(chosen, [FollowUp(follow_up.text) for follow_up in follow_ups]).failures() == []


@pytest.mark.parametrize("style", tiny_personas())
def test_the_tiny_worlds_rule_user_passes_in_every_style_as_its_oracle_reads_it(style):
    oracle = TinyOracle(style)
    for seed in SEEDS:
        chosen = choose_probes(oracle.probes(seed), oracle.fits, seed)
        assert sum(probe.fits for probe in chosen) == PROBES // 2 == len(chosen) // 2
        follow_ups = oracle.user(seed).react([p.prompt for p in chosen], [p.answer for p in chosen])
        trial = Trial(chosen, [FollowUp(follow_up.text) for follow_up in follow_ups], oracle.is_satisfied)
        assert trial.failures() == [] and trial.figures()["right"] == 1


def test_every_seed_draws_other_probes_and_the_same_seed_the_same():
    oracle = EnglishOracle(STYLE)
    drawn = [choose_probes(oracle.probes(seed), oracle.fits, seed) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_without_an_oracle_nobody_knows_what_is_right_but_the_form_is_checked():
    chosen = choose_probes(english_probes(), None, 3)
    assert len(chosen) == PROBES and {probe.fits for probe in chosen} == {None}
    passed = Trial(chosen, [FollowUp("Make it rhyme, please.")] * PROBES)
    assert passed.failures() == [] and passed.figures()["right"] is None and "not known" in passed.table()
    assert Trial(chosen, [FollowUp("", "empty")] * PROBES).failures() == [
        "100% of its replies are empty, at most 20% may"
    ]


@pytest.mark.parametrize("fits", [lambda answer, prompt: False, lambda answer, prompt: True])
def test_where_all_probes_are_on_one_side_nobody_knows_what_is_right(fits):
    """A user that always complains would be right of answers none of which fits."""
    chosen = choose_probes(english_probes(), fits, 3)
    assert len(chosen) == PROBES and {probe.fits for probe in chosen} == {None}


def test_complaining_in_the_words_of_the_persona_is_no_echo():
    persona = PERSONAS["brief"]
    assert not read_reaction(PROBE, FollowUp(persona, satisfied=False)).echo
    assert not read_reaction(PROBE, FollowUp("I like short answers. Say that you keep bread in a bag.")).echo
    assert read_reaction(PROBE, FollowUp("Is it so to keep the loaf IN A PAPER BAG?")).echo
    assert read_reaction(PROBE, FollowUp(USER_SYSTEM.partition("Your")[0])).echo


def test_the_report_names_limits_and_shows_faulty_reactions_first():
    chosen = [PROBE, Probe(PROBE.prompt, "Another answer.", False)]
    trial = Trial(chosen, [FollowUp("Perfect, thanks."), FollowUp("Lovely.")])
    assert "0.50  at least 0.75" in trial.table() and "2 probes, 1 with an answer that fits" in trial.table()
    assert trial.examples(1).splitlines() == [
        f"  prompt  {PROBE.prompt}", "  answer  Another answer.", "  reply   Lovely.",
    ]  # fmt: skip
    saved = json.loads(json.dumps(trial.as_json()))
    assert saved["failures"] == trial.failures() != [] and len(saved["reactions"]) == 2


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The sky is blue because it scatters light.", "English"),
        ("Das ist mir zu lang.", "German"),
        ("C'est trop long pour moi, merci.", "French"),
        ("Es muy largo, por favor hazlo más corto.", "Spanish"),
        ("Слишком длинно, сократи.", "CYRILLIC"),
        ("太长了,请简短一点。", "CJK"),
        ("もっと短くしてください。", "CJK"),
        ("Ok!", None),
        ("😀 12", None),
        ("", None),
    ],
)
def test_the_language_of_a_short_text(text, language):
    assert language_of(text) == language


def test_no_shipped_wording_is_taken_for_another_language():
    wordings = [*praise(), *praise(True), *(text for style in CHECKERS for text in complaints(style))]
    answers = [answer for pair in english_probes() for answer in pair]
    assert {language_of(text) for text in [*wordings, *answers]} <= {"English", None}
    assert {language_of(prompt) for prompt, _ in english_probes()} == {"English"}
