"""What people hand over: archives, folders with other files in them, tables in other words, other encodings."""

import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest

from jobs import prep_logs
from sdpo.data import prepare
from sdpo.runtime import launch
from tests.conversations import claude, openai, tree
from tests.preparation import report_of, rows_of, run, write

pytestmark = pytest.mark.usefixtures("empty_folder")
SAID = [("user", "Ask."), ("assistant", "Answer."), ("user", "Reply.")]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.fixture(autouse=True)
def no_figure(monkeypatch):
    """Leave the figure empty: it takes longer than all the rest, and other tests look at it."""
    monkeypatch.setattr(prepare, "draw", lambda lengths, title, file: None)


def interactions_of(folder):
    return rows_of(folder / "logs_interactions.jsonl")


def said(folder):
    return [(one["prompt"][-1]["content"], one["completion"], one["user_response"]) for one in interactions_of(folder)]


def account(folder):
    """Write an account's export: two shards, pictures and pages beside them, a rating."""
    folder.mkdir(parents=True)
    for number in (1, 2):
        row = tree(SAID) | {"conversation_id": f"c{number}", "current_node": "n2"}
        row["mapping"]["n1"]["message"]["id"] = f"answer {number}"
        (folder / f"conversations-{number}.json").write_text(json.dumps([row]))
    (folder / "chat.html").write_text("<html><body>chat</body></html>")
    (folder / "photo.png").write_bytes(PNG)
    (folder / "voice.dat").write_bytes(b"RIFF\xff\xf0WAVE")
    (folder / "user.json").write_text('{"id": "user-1", "email": "a@b.example"}')
    feedback = [{"id": "answer 2", "conversation_id": "c2", "rating": "thumbs_down"}]
    (folder / "message_feedback.json").write_text(json.dumps(feedback))


@pytest.mark.parametrize("archive", [False, True])
def test_files_beside_the_conversations_are_skipped_and_counted(archive):
    account(Path("export/inner"))
    source = "export"
    if archive:
        source = "export.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(Path("export").rglob("*")):
                packed.write(path, path.relative_to("export"))
            packed.writestr("__MACOSX/._conversations-1.json", "x")
    folder = run(prep_logs, "--input", source)
    report = report_of(folder)
    assert [(one["id"], one.get("rating")) for one in interactions_of(folder)] == [("c1_1", None), ("c2_1", -1)]
    assert report["skipped_files"] == {
        "not JSON, CSV or parquet": 1, "no conversations": 1, "not text": 2, "ratings": 1
    }  # fmt: skip
    assert report["ratings"] == {"thumbs down": 1} and report["counts"]["rows"]["seen"] == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "lengths.png", "logs_interactions.jsonl", "report.json"
    ]  # fmt: skip


def test_a_parquet_file_is_read_as_it_is():
    write(Path("train.parquet"), [openai(SAID, id="a"), openai(SAID, id="b")])
    assert said(run(prep_logs, "--input", "train.parquet")) == [("Ask.", "Answer.", "Reply.")] * 2


@pytest.mark.parametrize(
    "value",
    [
        {"conversations": [tree(SAID)]}, {"data": [openai(SAID)], "total": 1}, {"c": tree(SAID)},
        {"chats": {"a": claude(SAID)}}, openai(SAID)["messages"], [openai(SAID)["messages"]], [[openai(SAID)]],
        {"messages": json.dumps(openai(SAID)["messages"])},
    ],
    ids=range(8),
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_exports_inside_other_values_are_unwrapped(value, indent):
    Path("in.json").write_text(json.dumps(value, indent=indent))
    assert said(run(prep_logs, "--input", "in.json")) == [("Ask.", "Answer.", "Reply.")]


HEADERS = [
    "conversation_id,role,content,created_at", "conversationId,Role,Content,createdAt",
    "Chat ID;Sender;Message;Sent At",
    "CONVERSATION ID|FROM|TEXT|TIMESTAMP", "thread-id\tspeaker\tbody\tdate", "sep=;\nsession_id;author;text;time",
]  # fmt: skip
TIMES = [
    ("2025-01-01 10:00:00 UTC", "1735725605", "2025-01-01T10:00:09Z"),
    ("1735725600", "1735725605000", "1735725609.0"),
    ("Jan 1, 2025, 10:00:00 AM", "January 1, 2025 10:00:05", "Wed, 01 Jan 2025 10:00:09 GMT"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("header", HEADERS)
def test_tables_in_other_words_and_encodings(header, encoding):
    mark = next(mark for mark in "\t;|," if mark in header.splitlines()[-1])
    for times in TIMES if encoding == "utf-8" else TIMES[:1]:
        lines = [
            mark.join(["7.0", role, f'"{text}"', f'"{when}"'])
            for (role, text), when in reversed(list(zip(SAID, times, strict=True)))
        ]
        Path("in.csv").write_bytes("\r\n".join([header, *lines, ""]).encode(encoding))
        folder = run(prep_logs, "--input", "in.csv", "--force")
        assert said(folder) == [("Ask.", "Answer.", "Reply.")]
        assert interactions_of(folder)[0]["conversation_id"] == "7.0"


def test_fields_after_the_last_column_may_be_empty():
    Path("in.csv").write_text(
        "conversation_id,role,content\n1,user,Ask.,\n1,bot,Answer.,\n1,user,Reply.,\n2,user,x,y\n"
    )
    folder = run(prep_logs, "--input", "in.csv")
    assert said(folder) == [("Ask.", "Answer.", "Reply.")]
    assert report_of(folder)["counts"]["rows"]["dropped"] == {"more fields than the header has": 1}


def test_whole_numbers_written_with_a_point_are_the_same_id():
    rows = [{"conversation_id": number, "role": role, "content": text}
            for number, (role, text) in zip((5.0, 5, "5"), SAID, strict=True)]  # fmt: skip
    write(Path("in.jsonl"), rows)
    assert said(run(prep_logs, "--input", "in.jsonl")) == [("Ask.", "Answer.", "Reply.")]


def test_half_a_character_leaves_the_rest_of_the_conversation():
    words = [*SAID, ("assistant", "Next."), ("user", "half \ud83d")]
    Path("in.jsonl").write_text(json.dumps(openai(words)))
    folder = run(prep_logs, "--input", "in.jsonl")
    assert said(folder) == [("Ask.", "Answer.", "Reply.")]
    assert report_of(folder)["counts"]["interactions"]["dropped"] == {"text with half a character": 1}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in.csv", b"chat,who,what\n1,user,Ask.\n", ["chat, who, what", "conversation_id, role, content", "rename"]),
        ("in.csv", b"conversation_id,role,content,date\n1,user,a,03/04/2025\n1,bot,b,04/04/2025\n",
         ["in.csv, row 1", "date", "03/04/2025", "cannot be read"]),
        ("in.csv", b"conversation_id,role,content\n1,martian,a\n", ["unknown role", "in.csv, row 1", "martian"]),
        ("in.xlsx", b"PK\x03\x04" + b"\0" * 60, ["in.xlsx", "Excel", "CSV"]),
        ("in.zip", b"PK\x03\x04" + b"\0" * 60, ["in.zip", "ZIP"]),
        ("in.parquet", b"PAR1" + b"\0" * 60, ["in.parquet", "parquet"]),
        ("in.png", PNG, ["in.png", "not text"]),
        ("in.json", '{"messages": "é"}'.encode("latin-1"), ["in.json", "UTF-8"]),
        ("in.json", '{"messages": "é"}'.encode("utf-16")[:-1], ["in.json", "UTF-8"]),
        ("in.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], ["in.jsonl.gz", "gzip"]),
    ],
)  # fmt: skip
def test_what_has_no_one_reading_is_one_line(name, content, words, capsys):
    Path(name).write_bytes(content)
    assert launch.main(prep_logs.JOB, ["--out-dir", "out", "--input", name]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error


# Repeats

LONG = [*SAID, ("assistant", "Second."), ("user", "More."), ("assistant", "Third."), ("user", "Thanks.")]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("same_id", [False, True])
def test_growing_histories_give_each_interaction_once_from_the_longest(same_id, backwards):
    rows = [openai([("system", f"It is {count} o'clock."), *LONG[:count]], id="s" if same_id else f"r{count}")
            for count in (1, 2, 3, 5, 7)]  # fmt: skip
    write(Path("in.jsonl"), rows[::-1] if backwards else rows)
    folder = run(prep_logs, "--input", "in.jsonl")
    made = interactions_of(folder)
    name = "s" if same_id else "r7"
    assert [one["id"] for one in made] == [f"{name}_1", f"{name}_3", f"{name}_5"]
    assert {one["prompt"][0]["content"] for one in made} == {"It is 7 o'clock."}
    assert report_of(folder)["counts"]["rows"] == {
        "seen": 5, "kept": 1,
        "dropped": {"no answer that the user replied to": 2, "repeats what a longer or earlier conversation holds": 2},
    }  # fmt: skip


def test_branches_of_a_log_share_what_came_before_them():
    other = [*SAID, ("assistant", "Other."), ("user", "Hm.")]
    write(Path("in.jsonl"), [openai(LONG[:5], id="a"), openai(other, id="b")])
    folder = run(prep_logs, "--input", "in.jsonl")
    assert [one["id"] for one in interactions_of(folder)] == ["a_1", "a_3", "b_3"]


def test_two_people_may_say_the_same_and_ids_stay_unique():
    write(
        Path("in.jsonl"), [openai(SAID, id="a"), openai(SAID, id="b"), openai(SAID, id="a"), openai(LONG[2:], id="a")]
    )
    folder = run(prep_logs, "--input", "in.jsonl")
    assert [one["id"] for one in interactions_of(folder)] == ["a_1", "b_1", "a~2_1", "a~2_3"]
    assert report_of(folder)["duplicates"] == 1


def test_a_rating_of_the_last_answer_is_kept_when_the_next_request_holds_the_reply():
    first = {"request": {"messages": openai(SAID[:1])["messages"]}, "response": {"choices": [{"message": {
        "role": "assistant", "content": "Answer."}}]}, "rating": "thumbs_up"}  # fmt: skip
    second = {"request": openai(SAID), "response": {"choices": []}}
    write(Path("in.jsonl"), [first, second])
    folder = run(prep_logs, "--input", "in.jsonl")
    assert [one["rating"] for one in interactions_of(folder)] == [1]
    assert report_of(folder)["ratings"] == {"thumbs up": 1}


@pytest.mark.parametrize(("reason", "finished"), [("length", False), ("stop", True)])
def test_that_an_answer_was_truncated_is_kept_when_the_next_request_holds_the_reply(reason, finished):
    answer = {"message": {"role": "assistant", "content": "Answer."}, "finish_reason": reason}
    first = {"request": {"messages": openai(SAID[:1])["messages"]}, "response": {"choices": [answer]}}
    write(Path("in.jsonl"), [first, {"request": openai(SAID), "response": {"choices": []}}])
    (one,) = interactions_of(run(prep_logs, "--input", "in.jsonl"))
    assert one.get("finished", True) is finished


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_file_in_an_archive_is_one_line(method, capsys):
    with zipfile.ZipFile("in.zip", "w", method) as packed:
        packed.writestr("in.jsonl", "".join(json.dumps(openai(SAID, id=str(n))) + "\n" for n in range(200)))
    content = bytearray(Path("in.zip").read_bytes())
    content[50:90] = b"\xff" * 40
    Path("in.zip").write_bytes(content)
    assert launch.main(prep_logs.JOB, ["--out-dir", "out", "--input", "in.zip"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "in.zip (in.jsonl) cannot be unpacked" in line


def test_a_file_whose_name_is_not_utf8_is_read():
    folder = Path("chats")
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.jsonl")).write_text(json.dumps(openai(SAID)) + "\n")
    assert said(run(prep_logs, "--input", "chats")) == [("Ask.", "Answer.", "Reply.")]


def test_folders_that_are_links_are_read_and_each_once(tmp_path):
    write(tmp_path / "elsewhere" / "more.jsonl", [openai(SAID)])
    Path("chats").mkdir()
    for name, target in (("mine", tmp_path / "elsewhere"), ("again", tmp_path / "elsewhere"), ("round", Path("chats"))):
        Path("chats", name).symlink_to(target.resolve())
    folder = run(prep_logs, "--input", "chats")
    assert said(folder) == [("Ask.", "Answer.", "Reply.")] and report_of(folder)["files"] == ["more.jsonl"]


@pytest.mark.parametrize("value", [{"messages": None}, None])
def test_messages_of_several_conversations_in_one_list_are_several_conversations(value):
    ids = (10**18 + 1, 10**18 + 2)  # as chat servers number them
    rows = [{"conversation_id": name, "role": role, "content": text} for name in ids for role, text in SAID]
    Path("in.json").write_text(json.dumps(rows if value is None else {"messages": rows}))
    folder = run(prep_logs, "--input", "in.json", "--redact", "0")
    assert [one["conversation_id"] for one in interactions_of(folder)] == [str(name) for name in ids]


def test_a_rating_of_words_that_several_people_got_is_of_one_conversation():
    greeting = [("user", "Hello."), ("assistant", "Hello!")]
    rated = openai(greeting, id="a")
    rated["messages"][1]["rating"] = "thumbs_up"
    write(Path("in.jsonl"), [rated, openai([*greeting, ("user", "Who are you?")], id="b")])
    (one,) = interactions_of(run(prep_logs, "--input", "in.jsonl"))
    assert one["conversation_id"] == "b" and "rating" not in one


def test_what_the_job_wrote_before_is_not_read_again(capsys):
    write(Path("data/mine.jsonl"), [openai(SAID, id=f"c{number}") for number in range(4)])
    folder = Path("data/logs")
    run(prep_logs, "--input", "data", "--out-dir", "data/logs")
    assert len(interactions_of(folder)) == 4
    write(Path("data/mine.jsonl"), [openai(SAID, id="c1")])
    run(prep_logs, "--input", "data", "--force", "--out-dir", "data/logs")
    assert [row["conversation_id"] for row in interactions_of(folder)] == ["c1"]
    assert "Kept 1 of 1 rows" in capsys.readouterr().out


@pytest.mark.parametrize(("lines", "code"), [(30, 1), (3, 0)])
def test_a_quote_that_is_not_closed_is_said_and_loses_nothing_in_silence(lines, code, capsys):
    rows = [f"{number},{role},{said}" for number in range(40) for role, said in SAID]
    rows[-lines] = rows[-lines].rpartition(",")[0] + ',"Hello'
    Path("in.csv").write_text("\n".join(["conversation_id,role,content", *rows, ""]))
    assert launch.main(prep_logs.JOB, ["--out-dir", "out", "--input", "in.csv"]) == code
    said = capsys.readouterr()
    if code:
        assert f"in.csv, row {len(rows) - lines + 1}: a quote is not closed, and takes in the {lines} lines" in said.err
    else:
        assert {"a quote that is not closed": 1} in [
            one["dropped"] for one in report_of(Path("out"))["counts"].values()
        ]
