"""What a reply states, in JSON or in a line, what is left of it as the message, and what bare words suggest."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo.english.styles import STYLES, complaints, praise, unrelated
from sdpo.users.satisfaction import read_reply, reads_as_satisfied

MESSAGE = "Too long, please cut it."


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (f'{{"satisfied": false, "message": "{MESSAGE}"}}', (MESSAGE, False)),
        (f'{{"message": "{MESSAGE}", "satisfied": true}}', (MESSAGE, True)),
        (f'```json\n{{"satisfied": "no", "message": "{MESSAGE}"}}\n```', (MESSAGE, False)),
        (f'My reaction: {{"satisfied": false, "message": " {MESSAGE}\n"}} Bye.', (MESSAGE, False)),
        (f'{{"satisfied": null, "message": "{MESSAGE}"}}', (MESSAGE, None)),
        (f'{{"satisfied": false, "message": "Satisfied: no\\n{MESSAGE}"}}', (MESSAGE, False)),
        (f'{{"message": "Satisfied: no. {MESSAGE}"}}', (MESSAGE, False)),
        # Cut off at the maximum length, or malformed: the message as far as it goes.
        ('{"satisfied": false, "message": "Too long, please', ("Too long, please", False)),
        ('{"satisfied": true, "message": "It is \\"fine\\", th\\u00', ('It is "fine", th', True)),
        ('{"satisfied": false, "message": "Too long" "or": so}', ("Too long", False)),
        ('{"satisfied": false, "mess', ("", False)),
        ('{ "satisfied"\n\n\n', ("", None)),
        ('```json\n{"sa', ("", None)),
        ("```json\n", ("", None)),
        ("{", ("", None)),
        # The reply once more in the message, and statements that contradict each other.
        (f'{{"message": "{{\\"satisfied\\": false, \\"message\\": \\"{MESSAGE}\\"}}"}}', (MESSAGE, False)),
        ('{"message": "{\\"reaction\\": 1}", "satisfied": true}', ("", True)),
        (f'{{"satisfied": true, "message": "Satisfied: no\\n{MESSAGE}"}}', (MESSAGE, None)),
        (f"Satisfied: yes\n{MESSAGE}\nSatisfied: no", (MESSAGE, None)),
        (f"Satisfied: no\n{MESSAGE}\n\n---\n**Satisfied: no**", (MESSAGE, False)),
        # JSON without a message is never shown.
        ('{"satisfied": false}', ("", False)),
        ('{"satisfied": true, "message": ["Fine"]}', ("", True)),
        ('{"satisfied": true, "message": ""}', ("", True)),
        ('{"reaction": "Fine."}', ("", None)),
        ("```\n{}\n```", ("", None)),
        ("{'satisfied': False, 'message': 'Too long'}", ("", None)),
        # The line.
        (f"Satisfied: no\n{MESSAGE}", (MESSAGE, False)),
        (f"**Satisfied: No.**\n\n{MESSAGE}", (MESSAGE, False)),
        (f"satisfied: yes {MESSAGE}", (MESSAGE, True)),
        (f"Satisfied: no — {MESSAGE}", (MESSAGE, False)),
        (f"**Satisfied: no**\n\n---\n{MESSAGE}", (MESSAGE, False)),
        ("Satisfied: no\n**Too long**, `x`.", ("**Too long**, `x`.", False)),
        (f"Satisfied? Yes! {MESSAGE}", (MESSAGE, True)),
        (f"{MESSAGE}\nSatisfied: no", (MESSAGE, False)),
        ('Satisfied: no\n"Too long"', ('"Too long"', False)),
        (f"Satisfied: partly\n{MESSAGE}", (MESSAGE, None)),
        ("Satisfied: no", ("", False)),
        ("Satisfied: not really", ("", None)),
        # Plain text stays as it is.
        (f" {MESSAGE}\n", (MESSAGE, None)),
        ("I am satisfied: no emojis, as I like it.", ("I am satisfied: no emojis, as I like it.", None)),
        ("Satisfied customers say yes.", ("Satisfied customers say yes.", None)),
        ("{smiles} I like it.", ("{smiles} I like it.", None)),
        ("Use {name} and not [name].", ("Use {name} and not [name].", None)),
        ("", ("", None)),
    ],
)
def test_a_reply_is_read_and_only_its_message_is_left(reply, expected):
    assert read_reply(reply) == expected


@given(st.text(max_size=80), st.booleans())
def test_any_message_that_a_server_writes_as_json_comes_back(message, satisfied):
    text, stated = read_reply(json.dumps({"satisfied": satisfied, "message": f"x {message}"}))
    text.encode("utf-8")
    assert stated is satisfied and text.startswith("x")


words = st.sampled_from(
    [
        "Too long.",
        "Nice 😀",
        "ça va",
        'the "end"',
        "tab\t",
        "{name}",
        "two\nlines",
        "`code`",
        "**Too** long",
        "- a list",
        "C:\\new",
    ]
)
STATEMENTS = ["Satisfied: {}", "**Satisfied:** {}.", "satisfied? {}", "> Satisfied: {}"]


@given(st.lists(words, max_size=4).map(" ".join), st.booleans(), st.booleans(), st.integers(0, 120), st.booleans())
def test_of_a_reply_that_is_cut_off_only_the_message_is_left(message, satisfied, first, length, fenced):
    fields = {"satisfied": satisfied, "message": message}
    reply = json.dumps(fields if first else dict(reversed(fields.items())), indent=length % 3 or None)
    text, stated = read_reply((f"```json\n{reply}\n```" if fenced else reply)[:length])
    assert message.strip().startswith(text) and stated in (None, satisfied)
    assert text == message.strip() or length < len(reply) + 10


@given(
    st.lists(st.tuples(st.sampled_from(STATEMENTS), st.sampled_from(["yes", "no"])), max_size=2), words, st.booleans()
)
def test_a_statement_is_none_if_another_contradicts_it_and_is_never_shown(chosen, message, first):
    lines = [form.format(word) for form, word in chosen]
    above = lines[: 1 if first else 0]
    text, stated = read_reply("\n".join([*above, message, *lines[len(above) :]]))
    said = {word == "yes" for _, word in chosen}
    assert (text, stated) == (message.strip(), said.pop() if len(said) == 1 else None)


@pytest.mark.parametrize("row", ["\n", " ", "*", "`", "\\", "{", '{"message":', "satisfied: no\n", "satisfied:"])
@pytest.mark.parametrize("begin", ["", "a", "satisfied", "satisfied: no\n", "```", '{"message": "'])
def test_a_long_row_of_one_sign_is_read_at_once(begin, row):
    started = time.process_time()
    read_reply(begin + row * (20_000 // len(row)) + "z")
    assert time.process_time() - started < 2


@given(st.text(alphabet='{}"\\satisfiedmessage: yesno\n`,u0', max_size=60))
def test_no_reply_raises_and_the_same_reply_is_read_the_same(reply):
    assert read_reply(reply) == read_reply(reply)
    read_reply('{"satisfied": false, "message": "' + reply)[0].encode("utf-8")


def test_praise_and_wishes_are_told_apart_in_the_shipped_wordings():
    content = [*praise(), *praise(held_out=True)]
    wishes = [text for style in STYLES for text in (*complaints(style), *complaints(style, True))]
    assert [text for text in content if reads_as_satisfied(text) is not True] == []
    assert sum(reads_as_satisfied(text) is False for text in wishes) >= 0.95 * len(wishes)
    assert not any(map(reads_as_satisfied, [*unrelated(), *unrelated(True)]))


@pytest.mark.parametrize(
    ("message", "satisfied"),
    [
        ("I'm happy with this answer, it's short and has no bullet points.", True),
        ("This fits my taste perfectly, not a single emoji!", True),
        ("I love how concise this is.", True),
        ("That's exactly what I wanted, I wouldn't change a thing.", True),
        ("Thank you, please keep it up!", True),
        ("Thanks, but it is longer than I like.", False),
        ("I'm not happy with this answer.", False),
        ("Great content, though I would have preferred a list.", False),
        ("It's good, just drop the emojis.", False),
        ("The answer could be shorter.", False),
        ("I don't like the exclamation marks.", False),
        ("Air scatters blue light.", None),
        ("", None),
    ],
)
def test_praise_and_wishes_in_the_words_of_a_model(message, satisfied):
    assert reads_as_satisfied(message) is satisfied
