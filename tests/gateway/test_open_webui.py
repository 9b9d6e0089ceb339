"""What Open WebUI sends, as it was recorded: what ends in the store, and where its ratings go."""

import json
from pathlib import Path

import httpx
import pytest

from sdpo.data.conversation import Conversation, interactions
from sdpo.data.messages import content_of, message
from tests.gateway.running import gateway, streamed, text_of
from tests.gateway.upstreams import Upstream

FOLDER = Path(__file__).parent / "open_webui"
RECORDED = json.loads((FOLDER / "requests.json").read_text("utf-8"))
SCENES = {scene["scene"]: scene["requests"] for scene in RECORDED["scenes"]}
FEEDBACK = json.loads((FOLDER / "feedback.json").read_text("utf-8"))
ANN, BOB = "85093d8d-52f6-486c-90d4-f8eb159e3948", "25cac7a8-d379-410f-9522-a3490ffc7b70"


class Replay:
    """The recorded requests on their way through a gateway, each answered as it was."""

    def __init__(self, running, upstream) -> None:
        self.running, self.upstream = running, upstream
        self._played: dict[str, list[httpx.Response]] = {}

    def scene(self, name: str) -> list[httpx.Response]:
        """Send the requests of a scene one after another, once; check that each is answered as it was."""
        if name in self._played:
            return self._played[name]
        responses = self._played[name] = []
        for request in SCENES[name]:
            responses.append(self.ask(request, request["headers"]))
        return responses

    def ask(self, request: dict, headers: dict[str, str], **more: str) -> httpx.Response:
        """Send a recorded request with these headers and check that it is answered as it was."""
        answer = request["answer"]
        self.upstream.answer = lambda body: answer
        url = f"{self.running.url}/chat/completions"
        response = httpx.post(url, json=request["body"] | more, headers=headers, timeout=30)
        assert response.status_code == 200, response.text
        given = streamed(response.content) if request["body"].get("stream") else text_of(response)
        assert given == (answer["content"] or "")
        return response

    def kept(self, name: str) -> list[list[str]]:
        """Return the texts of what is kept of a scene, path by path; that of a message without text is its role."""
        chats = {request["headers"].get("X-OpenWebUI-Chat-Id") for request in SCENES[name]}
        found = [one for one in self.running.store().conversations() if one.id.partition("~")[0] in chats]
        return [[shown(message) for message in chat.messages] for chat in found]


def shown(one: dict) -> str:
    """Return what a message says; of what the program found in documents, and of a summary, the first words."""
    content = one["content"]
    if isinstance(content, list):
        content = " ".join(part.get("text", part["type"]) for part in content)
    if one["role"] == "tool":
        return "tool"
    text = content if content else "".join(call["function"]["name"] for call in one.get("tool_calls", []))
    return text if len(text) < 100 else f"{text[:9]} ... {text.splitlines()[-1]}"


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    with Upstream() as upstream, gateway(upstream.url, tmp_path_factory.mktemp("webui")) as running:
        yield Replay(running, upstream)


def test_a_chat_on_the_page_is_one_conversation_and_its_titles_tags_suggestions_and_memories_are_not_kept(replay):
    replay.scene("two messages")
    assert replay.kept("two messages") == [
        ["How long is the Rhine?", "Answer 1: How long is the Rhine?", "Shorter, please.", "Answer 2: Shorter, please."]
    ]
    [chat] = [one for one in replay.running.store().conversations() if one.messages[0]["content"].startswith("How lo")]
    assert chat.user == ANN
    listed = httpx.get(f"{replay.running.root}{RECORDED['models']['path']}", headers=RECORDED["models"]["headers"])
    assert [one["id"] for one in listed.json()["data"]] == ["sdpo", "base-model"]


def test_regenerated_edited_and_continued_answers_are_branches_and_the_newest_is_what_the_page_shows(replay):
    name = "regenerate, rate both, follow up, edit, continue"
    replay.scene(name)
    newest, *others = replay.kept(name)
    assert newest == [
        "Name a river.", "Answer 4: Name a river.", "A wider one.",
        "Answer 6: A wider one.Answer 7: Answer 6: A wider one.", "And the end of it?", "Answer 8: And the end of it?",
    ]  # fmt: skip
    assert sorted(path[-1] for path in others) == [
        "Answer 3: Name a river.", "Answer 5: A longer one.", "Answer 7: Answer 6: A wider one.",
    ]  # fmt: skip
    replay.scene("fork")
    assert replay.kept("fork") == [[*newest, "In the fork.", "Answer 9: In the fork."]]


def test_a_rating_goes_to_the_answer_that_was_rated_though_a_regenerated_one_has_its_index(replay):
    rated = {}
    scenes = ("regenerate, rate both, follow up, edit, continue", "headers of the connection name task and message")
    for name in scenes:
        replay.scene(name)
    done = httpx.post(f"{replay.running.url}/feedback", json=FEEDBACK).json()
    assert (len(done["stored"]), done["unknown"], done["no_rating"]) == (4, 0, 0)
    for one in replay.running.store().conversations():
        if one.id.partition("~")[0] not in {given["meta"]["chat_id"] for given in FEEDBACK}:
            continue
        for rating in one.ratings:
            rated[one.messages[rating["message"]]["content"]] = (rating["rating"], rating["comment"])
    assert rated == {
        "Answer 3: Name a river.": (-1, "too_verbose; It runs on."),
        "Answer 4: Name a river.": (1, None),
        "Answer 38: Name a lake.": (-1, "not_factually_correct"),
        "Answer 39: A deeper one.": (1, None),
    }


def test_a_rating_that_is_sent_again_replaces_the_earlier_one_and_what_fits_nothing_is_counted(replay):
    replay.scene("two messages")
    chat = SCENES["two messages"][0]["headers"]["X-OpenWebUI-Chat-Id"]
    meta = {**FEEDBACK[0]["meta"], "chat_id": chat, "message_id": "of-another-version", "message_index": 2}
    first = FEEDBACK[0] | {"id": "f-1", "user_id": ANN, "meta": meta, "snapshot": None}
    last = first | {"id": "f-2", "meta": {**meta, "message_index": 4}}
    changed = last | {"data": {**last["data"], "rating": "1", "reason": None, "comment": ""}}
    elsewhere = first | {"id": "f-3", "meta": {**meta, "chat_id": "elsewhere"}}
    draw = first | {"id": "f-4", "data": {**first["data"], "rating": 0}}
    assert httpx.post(f"{replay.running.url}/feedback", json=last).status_code == 200
    done = httpx.post(f"{replay.running.url}/feedback", json=[first, changed, elsewhere, draw]).json()
    assert (len(done["stored"]), done["unknown"], done["no_rating"]) == (2, 1, 1)
    assert replay.running.store().conversation(chat).ratings == [
        {"message": 1, "rating": -1, "comment": "not_factually_correct"},
        {"message": 3, "rating": 1, "comment": None},
    ]


def test_temporary_chats_are_answered_and_not_kept(replay):
    before = replay.running.store().exchange_count()
    assert not any("x-sdpo-exchange" in one.headers for one in replay.scene("temporary chat"))
    older = {**SCENES["temporary chat"][0]["headers"], "X-OpenWebUI-Chat-Id": "local:socket-1"}
    assert "x-sdpo-exchange" not in replay.running.chat("For nobody's eyes.", headers=older).headers
    assert replay.running.store().exchange_count() == before


def test_a_tool_called_by_the_model_and_a_thought_are_part_of_the_conversation(replay):
    replay.scene("a tool is called")
    assert replay.kept("a tool is called") == [
        ["Tell me what time it is.", "get_current_timestamp", "tool", "Answer 13: the tool was asked.",
         "And in Basel?", "Answer 14: And in Basel?"]
    ]  # fmt: skip
    replay.scene("a thought")
    assert [path[2:] for path in replay.kept("a thought")] == [["Is it?", "Answer 16: Is it?"]]


def test_a_question_about_a_document_is_kept_as_the_model_got_it_and_the_follow_up_is_the_users_words(replay):
    replay.scene("a document")
    [path] = replay.kept("a document")
    assert path == [
        "### Task: ... How long is it?", "Answer 21: How long is it?", "### Task: ... In miles?",
        "Answer 22: In miles?", "### Task: ... Thank you.", "Answer 23: Thank you.",
    ]  # fmt: skip
    [chat] = [
        one for one in replay.running.store().conversations() if one.messages[-1]["content"].endswith("Thank you.")
    ]
    sources = [part for one in chat.messages for part in message(one["role"], content_of(one["content"]))]
    found = interactions(Conversation(chat.id, sources))
    assert [one.user_response for one in found] == ["In miles?", "Thank you."]
    assert "1,230 km" in found[0].prompt[0]["content"] and "1,230 km" in found[1].prompt[-1]["content"]
    plain = [replay.ask(request, {}, user="nameless") for request in SCENES["a document"][1::2]]
    assert len({one.headers["x-sdpo-conversation"] for one in plain}) == 1
    name = "RAG_SYSTEM_CONTEXT=True: a document"
    replay.scene(name)
    [path] = replay.kept(name)
    assert path[1:] == ["How long is the Rhine?", "Answer 42: How long is the Rhine?", "How long in miles?",
                        "Answer 43: How long in miles?"]  # fmt: skip


def test_the_choice_of_tools_by_a_prompt_is_not_kept_and_the_question_with_what_they_found_is(replay):
    name = "a tool of the administrator's, chosen by a prompt"
    replay.scene(name)
    assert replay.kept(name) == [
        ["### Task: ... How wide is the Rhine?", "Answer 24: How wide is the Rhine?", "### Task: ... And the Aare?",
         "Answer 25: And the Aare?"]
    ]  # fmt: skip


def test_every_other_question_of_its_own_is_answered_and_not_kept(replay):
    before = replay.running.store().exchange_count()
    assert len(replay.scene("the other tasks")) == 9
    assert replay.running.store().exchange_count() == before


def test_a_message_that_only_begins_like_its_own_questions_is_a_message(replay):
    replay.scene("begins like a task")
    [path] = replay.kept("begins like a task")
    assert [path[0], path[2]] == ["### Task:\nTranslate: river", "### Task:\nTranslate: bridge"]


def test_pictures_system_prompts_two_models_the_arena_and_scripts(replay):
    replay.scene("a picture")
    [path] = replay.kept("a picture")
    assert path[0] == "What is in it? image_url" and path[2] == "Which colour?"
    replay.scene("not streamed, with a system prompt")
    assert [len(path) for path in replay.kept("not streamed, with a system prompt")] == [4]
    replay.scene("two models at once")
    assert [path[-1] for path in replay.kept("two models at once")] == [
        "Answer 34: You, then.", "Answer 33: Which of you?",
    ]  # fmt: skip
    replay.scene("the arena")
    assert [len(path) for path in replay.kept("the arena")] == [4]
    [script] = replay.scene("without a chat, as scripts ask")
    kept = replay.running.store().conversation(script.headers["x-sdpo-conversation"])
    assert (kept.user, len(kept.messages)) == (BOB, 2)


def test_a_history_that_was_summarised_goes_on_in_the_same_conversation(replay):
    name = "the history is summarised"
    replay.scene(name)
    assert sorted(len(path) for path in replay.kept(name)) == [2, 3, 3, 3]
    assert len({one.id.partition("~")[0] for one in replay.running.store().conversations()
                if "The Rhine." in str(one.messages)}) == 1  # fmt: skip


def test_headers_of_the_connection_say_what_is_a_task_and_which_message_an_answer_is(replay):
    name = "headers of the connection name task and message"
    replay.scene(name)
    kept = replay.kept(name)
    assert sorted(len(path) for path in kept) == [2, 4, 5]
    [lake] = [path for path in kept if len(path) == 5]
    assert lake == ["Be kind. Today is 2026-11-26.", "Name a lake.", "Answer 38: Name a lake.", "A deeper one.",
                    "Answer 39: A deeper one."]  # fmt: skip


def test_a_user_that_a_token_names_is_that_user(replay):
    [response] = replay.scene("FORWARD_USER_INFO_HEADER_JWT_SECRET set")
    assert replay.running.store().conversation(response.headers["x-sdpo-conversation"]).user == BOB


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.!!.c", "a.bnVsbA.c", "a.W10.c", "a.eyJzdWIiOjN9.c"])
def test_a_token_that_names_nobody_is_no_user(replay, token):
    response = replay.running.chat("Who am I?", headers={"X-OpenWebUI-User-Jwt": token})
    assert replay.running.store().conversation(response.headers["x-sdpo-conversation"]).user == ""


def test_without_any_header_of_its_own_two_people_who_ask_the_same_are_two_conversations_without_its_questions(replay):
    before = replay.running.store().exchange_count()
    kept = [one.headers.get("x-sdpo-conversation") for one in replay.scene("without ENABLE_FORWARD_USER_INFO_HEADERS")]
    conversations = [name for name in kept if name]
    assert len(conversations) == 4 and conversations[0] == conversations[1] != conversations[2] == conversations[3]
    assert replay.running.store().exchange_count() == before + 4
