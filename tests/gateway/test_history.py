"""How a request finds its place in the store, for any order in which clients go on, edit and ask again."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from sdpo.data.redact import Redactor
from sdpo.gateway.history import hashes, message_hash
from sdpo.gateway.identity import Identity
from sdpo.gateway.recording import read_turn
from sdpo.gateway.schema import CONVERSATIONS, EXCHANGES
from sdpo.gateway.stitching import Stitcher
from sdpo.gateway.store import Store
from tests.gateway.running import said


class Client:
    """Sends requests straight to the store's side of a gateway."""

    def __init__(self, store: Store, redact: bool = True) -> None:
        self.store, self.stitcher, self.redactor = store, Stitcher(store), Redactor(redact)

    def say(self, messages: list[dict], answer: dict, user: str = "ann", name: str | None = None) -> str:
        """Keep a request and its answer, and return the id of its conversation."""
        turn = read_turn(messages, Identity("", user, name), False, self.redactor, self.stitcher)
        exchange = turn.exchange({}, "m", "", "", "g")
        with self.store.writing.begin() as connection:
            row = exchange.conversation_row()
            connection.execute(self.store.insert(CONVERSATIONS).on_conflict_do_nothing(), row)
            connection.execute(insert(EXCHANGES), exchange.row() | exchange.answer_columns([answer]))
        self.stitcher.release(turn.place)
        return exchange.conversation


def asked(text: str) -> dict:
    return {"role": "user", "content": text}


def texts(conversation) -> tuple[str, ...]:
    return tuple(message["content"] for message in conversation.messages)


def fresh() -> Store:
    return Store(f"sqlite:///{Path(tempfile.mkdtemp()) / 'store.sqlite'}")


# A plan: each step goes on after an earlier answer, or begins (0), for one of two users.
STEPS = st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.sampled_from(["hi", "yes", "more"])), max_size=12)


@given(steps=STEPS, named=st.booleans(), system=st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_path_of_every_conversation_is_kept_once(steps, named, system):
    store = fresh()
    client = Client(store)
    paths: list[tuple[str, str, list[dict]]] = []  # user, conversation, messages
    leaves: dict[tuple[str, ...], str] = {}
    conversations: dict[str, set[tuple[str, ...]]] = {}
    for number, (after, other, question) in enumerate(steps):
        user = "bob" if other else "ann"
        own = [path for path in paths if path[0] == user]
        _, name, history = own[after % len(own)] if after and own else (user, f"chat{number}", [])
        request = [*history, asked(f"{question} ")]
        answer = said(f"answer {number}")
        sent = [{"role": "system", "content": f"It is day {number}."}, *request] if system else request
        found = client.say(sent, answer, user, name if named else None)
        assert not named or found == name
        paths.append((user, found if named else name, [*request, answer]))
        leaves.pop(tuple(message["content"] for message in history), None)
        leaves[tuple(message["content"] for message in [*request, answer])] = user
        conversations.setdefault(found, set()).add(tuple(message["content"] for message in [*request, answer]))
    stored = list(store.conversations())
    spoken = [tuple(text for text in texts(one) if not text.startswith("It is day")) for one in stored]
    assert sorted(spoken) == sorted(leaves)
    assert {one: conversation.user for one, conversation in zip(spoken, stored, strict=True)} == leaves
    assert len(stored) == len({one.id for one in stored})
    assert {one.id.partition("~")[0] for one in stored} == set(conversations)
    store.close()


def test_only_what_is_new_is_kept():
    store = fresh()
    client = Client(store)
    history: list[dict] = []
    for number in range(5):
        history += [asked(f"question {number}")]
        client.say(history, said(f"answer {number}"))
        history += [said(f"answer {number}")]
    with store.engine.begin() as connection:
        kept = [json.loads(row.messages) for row in connection.execute(EXCHANGES.select().order_by(EXCHANGES.c.id))]
    assert kept == [[asked(f"question {number}")] for number in range(5)]
    [conversation] = store.conversations()
    assert conversation.messages == history


def test_two_conversations_that_begin_alike_are_gone_on_with_one_by_one():
    store = fresh()
    client = Client(store)
    first, second = (client.say([asked("hi")], said("hello")) for _ in range(2))
    assert first != second
    for text in ("one", "two"):
        client.say([asked("hi"), said("hello"), asked(text)], said(f"about {text}"))
    found = sorted(texts(one) for one in store.conversations())
    assert found == [("hi", "hello", text, f"about {text}") for text in ("one", "two")]


def test_two_requests_at_once_do_not_go_on_from_the_same_answer():
    store = fresh()
    client = Client(store)
    for _ in range(2):
        client.say([asked("hi")], said("hello"))
    history = [asked("hi"), said("hello"), asked("more")]
    places = [read_turn(history, Identity("", "ann"), False, client.redactor, client.stitcher).place for _ in range(2)]
    assert places[0].parent != places[1].parent and places[0].conversation != places[1].conversation


def test_a_client_that_drops_old_messages_stays_in_its_named_conversation():
    store = fresh()
    client = Client(store)
    history = [asked("a"), said("b"), asked("c"), said("d")]
    client.say(history[:1], history[1], name="chat")
    client.say(history[:3], history[3], name="chat")
    client.say([*history[2:], asked("e")], said("f"), name="chat")
    [conversation] = store.conversations()
    assert texts(conversation) == ("a", "b", "c", "d", "e", "f")


def test_one_users_name_for_a_conversation_does_not_lead_to_anothers():
    store = fresh()
    client = Client(store)
    own = client.say([asked("secret")], said("kept"), "ann", "chat")
    other = client.say([asked("secret"), said("kept"), asked("what did I say?")], said("?"), "bob", "chat")
    assert own == "chat" != other
    assert client.say([asked("again")], said("!"), "bob", "chat") == other
    assert {one.user: one.id.partition("~")[0] for one in store.conversations()} == {"ann": own, "bob": other}


def test_forms_of_the_same_message_have_the_same_hash():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    same = [
        [said("Hi."), {"role": "assistant", "content": [{"type": "text", "text": "Hi.\n"}], "refusal": None}],
        [said("Hi."), said("<think>So.</think>\n\nHi.")],
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "assistant", "content": "", "tool_calls": [{**call, "index": 0, "id": "2"} | {
                "function": {"name": "f", "arguments": '{"a":1}'}}]},
        ],
        [asked("mail [EMAIL_1]"), asked("mail [EMAIL_2]")],
    ]  # fmt: skip
    for one, other in same:
        assert message_hash(one) == message_hash(other)
    assert message_hash(asked("Hi.")) != message_hash(said("Hi."))
    assert message_hash(asked("Hi.")) != message_hash(asked("hi."))


@given(st.lists(st.text(max_size=4), max_size=6))
def test_the_hashes_of_a_beginning_are_the_beginning_of_the_hashes(contents):
    messages = [asked(text) if number % 2 else said(text) for number, text in enumerate(contents)]
    whole = hashes(messages)
    for length in range(len(messages) + 1):
        assert hashes(messages[:length]) == whole[:length]
        assert hashes(messages[length:], whole[length - 1] if length else "") == whole[length:]
