"""One conversation in every supported file format, and functions that read it back."""

import csv
import io
import json
from collections import Counter

from sdpo.data import logs
from sdpo.data.conversation import Conversation, Dropped

OPENAI, SHAREGPT_FORM, CHATGPT, CLAUDE = (
    "OpenAI messages",
    "ShareGPT conversations",
    "ChatGPT export",
    "Claude export",
)
LINES = "one message per line"
MESSAGES = [
    ("user", "ask 😀"),
    ("assistant", "answer"),
    ("user", "reply שלום"),
    ("assistant", "bye"),
    ("user", "<|im_end|>"),
]
SHAREGPT_NAMES = {"user": "human", "assistant": "gpt"}


def read(path, scratch):
    """Return the conversations of a file, the number of dropped ones by reason, and the number of rows by format."""
    forms = Counter()
    results = list(logs.read_conversations(path, scratch, forms))
    kept = [result for result in results if isinstance(result, Conversation)]
    reasons = Counter(result.reason for result in results if isinstance(result, Dropped))
    return kept, reasons, dict(forms)


def read_rows(tmp_path, rows, form):
    """Return the conversations of rows that are all in one format."""
    path = tmp_path / "logs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, reasons, forms = read(path, tmp_path)
    assert forms == {form: len(rows)}
    return kept, reasons


def openai(messages=MESSAGES, **fields):
    return {"messages": [{"role": role, "content": text} for role, text in messages], **fields}


def _lines(delimiter=None, order=True):
    rows = [
        {"conversation_id": "c", "role": role, "content": text, "order" if order else "timestamp": _when(index, order)}
        for index, (role, text) in enumerate(MESSAGES)
    ]
    rows = rows[::-1] if order else rows
    if delimiter is None:
        return "".join(json.dumps(row) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, [name.replace("_", " ").title() for name in rows[0]], delimiter=delimiter)
    writer.writeheader()
    writer.writerows({name.replace("_", " ").title(): value for name, value in row.items()} for row in rows)
    return text.getvalue()


def _when(index, order):
    return index if order else f"2024-01-01T00:00:0{index}Z"


def node(name, parent, role, text, **fields):
    content = {"content_type": "text", "parts": [text]}
    return {name: {"id": name, "parent": parent, "message": {"author": {"role": role}, "content": content, **fields}}}


def tree(messages=MESSAGES):
    mapping = {"root": {"id": "root", "parent": None, "message": None}}
    names = ["root", *(f"n{index}" for index in range(len(messages)))]
    for (role, text), parent, name in zip(messages, names, names[1:], strict=False):
        mapping |= node(name, parent, role, text)
    return {"mapping": mapping, "current_node": names[-1], "conversation_id": "c", "create_time": 1.5}


def claude(messages=MESSAGES):
    names = {"user": "human", "assistant": "assistant"}
    return {
        "uuid": "c", "name": "", "created_at": "2024-01-01",
        "chat_messages": [
            {"uuid": f"m{index}", "sender": names[role], "text": "", "content": [{"type": "text", "text": text}]}
            for index, (role, text) in enumerate(messages)
        ],
    }  # fmt: skip


PARTS = openai([(role, [{"type": "text", "text": text}]) for role, text in MESSAGES], id="c")
SHAREGPT = {"id": "c", "conversations": [{"from": SHAREGPT_NAMES[role], "value": text} for role, text in MESSAGES]}
FORMS = {
    "openai.jsonl": (json.dumps(openai(id="c")) + "\n", OPENAI),
    "openai.json": (json.dumps([openai(id="c")], indent=2), OPENAI),
    "one-object.json": (json.dumps(openai(id="c"), indent=2), OPENAI),
    "parts.jsonl": (json.dumps(PARTS), OPENAI),
    "sharegpt.json": (json.dumps([SHAREGPT]), SHAREGPT_FORM),
    "conversations.json": (json.dumps([tree()]), CHATGPT),
    "claude.json": (json.dumps([claude()]), CLAUDE),
    "lines.jsonl": (_lines(), LINES),
    "times.jsonl": (_lines(order=False), LINES),
    "lines.csv": (_lines(","), LINES),
    "times.csv": (_lines(";", order=False), LINES),
    "lines.tsv": ("\ufeff" + _lines("\t"), LINES),
}
