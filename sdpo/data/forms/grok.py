"""The export of a Grok account: each conversation with its responses, of which the branch that was kept is read."""

from typing import Any

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import content_of, id_of, is_finished, message, rating_in, role_of
from sdpo.data.shapes import BROKEN, Messages, branch, conversation, newest_leaf, read_each
from sdpo.data.times import moment


def _matches(row: dict) -> bool:
    return isinstance(row.get("conversation"), dict) and isinstance(row.get("responses"), list)


def _read(row: dict, name: str) -> Conversation | Dropped:
    given = [one.get("response", one) if isinstance(one, dict) else one for one in row["responses"]]
    if not all(isinstance(one, dict) for one in given):
        return Dropped("a message that is not an object")
    about = row["conversation"]
    by_id = {key: one for one in given if (key := id_of(one, "_id", "id", "response_id"))}
    parents = {key: one.get("parent_response_id") for key, one in by_id.items()}
    if len(by_id) == len(given) and any(isinstance(one, str) and one in by_id for one in parents.values()):
        leaf = about.get("leaf_response_id")
        if not isinstance(leaf, str) or leaf not in by_id:
            leaf = newest_leaf(parents, lambda key: by_id[key].get("create_time"))
        names = branch(parents, leaf) if leaf is not None else BROKEN
        if isinstance(names, Dropped):
            return names
        given = [by_id[key] for key in names]
    elif all(moment(one.get("create_time")) is not None for one in given):
        given = sorted(given, key=lambda one: moment(one.get("create_time")) or 0.0)
    read = read_each(given, _message)
    if isinstance(read, Dropped):
        return read
    messages, model = read
    return conversation(about, name, messages, model)


def _message(one: dict) -> Messages:
    role = role_of(one.get("sender"))
    if role is None:
        return Dropped("a message of unknown role")
    content = content_of(one.get("message"))
    if isinstance(content, Dropped):
        return content
    files: Any = one.get("file_attachments") or one.get("generated_image_urls")
    if isinstance(files, list) and files:
        content = content_of([{"type": "text", "text": content.text}, {"type": "file"}])
    if isinstance(content, Dropped):
        return content
    return message(role, content, rating=rating_in(one) if role == "assistant" else None, finished=is_finished(one))


FORM = Form("Grok export", _matches, _read)
