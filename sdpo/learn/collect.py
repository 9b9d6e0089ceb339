"""What was said: conversations from the store or from files, whose they are, and which persons are held out."""

import hashlib
import hmac
import json
import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.data.json_stream import read_json
from sdpo.data.messages import id_of
from sdpo.data.redact import letters_of, shown_id
from sdpo.errors import RecordError, command
from sdpo.gateway.conversations import conversation_of
from sdpo.registry import versions
from sdpo.runtime.files import replace_file
from sdpo.text.records import Interaction, interaction_lines, read_interactions
from sdpo.text.split import is_held_out

if TYPE_CHECKING:
    from sdpo.gateway.conversations import StoredConversation
    from sdpo.gateway.store import Store
    from sdpo.settings import LearnSettings, StoreSettings

CONVERSATIONS, PERSONS, EXCHANGES, NAMES = "conversations.jsonl", "persons.json", "exchanges.json", "names.json"
TRAIN, HELD_OUT, SPLIT = "train.jsonl", "held_out.jsonl", "split.json"
_ID_NAMES = ("conversation_id", "id")
_USER_NAMES = ("user", "user_id")
_LINES = (".jsonl", ".ndjson")
# With fewer persons, or fewer interactions of those held out, conversations are held out instead of persons.
_FEWEST_PERSONS, _FEWEST_HELD_OUT = 10, 16


def open_store(settings: "StoreSettings") -> "Store":
    """Return the store of STORE_URL. Raises SdpoError if it does not exist: only a gateway makes one."""
    from sdpo.gateway.store import Store

    return Store(settings.store_url, create=False)


def input_listing(path: Path) -> list[list[Any]]:
    """Return name, size and time of each file of INPUT, in order: whether it is still the same."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def write_conversations(
    store: "Store", folder: Path, unused_only: bool, person: Callable[[str], str]
) -> dict[str, Any]:
    """Write the store's conversations, without their users, and whose they are into the folder; return counts.

    The ids of their exchanges are written too, for `is_removed`. The conversations have other ids there, because those
    of clients may be private, as an e-mail address is, and the preparation would replace them: see `real_ids`.
    `replied` is the number of conversations in which a user replied to an answer.
    """
    from sdpo.gateway import export

    unused = {one.id for one in store.conversations(only_unused=True)}
    persons, replied = dict[str, str](), set[str]()
    exchanges = store.exchange_ids()

    def row(one: "StoredConversation") -> dict:
        roles = [message.get("role") for message in one.messages]
        if ("assistant", "user") in pairwise(roles):
            replied.add(one.id)
        persons[one.id] = person(one.user) if one.user else ""
        kept = {name: value for name, value in export.row_of(one).items() if name != "user"}
        return kept | {"id": _neutral(one.id)}

    count = export.write_conversations(store, folder / CONVERSATIONS, unused_only, row)
    collected = set(persons)
    for name, user in store.users().items():  # so that the same persons are held out, whoever spoke since
        persons.setdefault(name, person(user) if user else "")
    _write_persons(folder, {_neutral(name): hashed for name, hashed in persons.items()})
    exchanges |= store.exchange_ids()  # of before and after, so that what was removed meanwhile is among them
    names = {conversation_of(name) for name in collected}
    kept = [exchange for exchange, name in exchanges.items() if name in names]
    replace_file(folder / NAMES, json.dumps({_neutral(name): name for name in names}).encode())
    replace_file(folder / EXCHANGES, json.dumps(kept).encode())
    return {"conversations": count, "unused": sorted(unused & collected), "replied": len(replied)}


def _neutral(name: str) -> str:
    """Return an id that nobody can read anything from, always the same one; a branch stays one of its conversation."""
    head = conversation_of(name)
    letters = letters_of(hashlib.sha256(head.encode("utf-8", "surrogatepass")).hexdigest())
    return f"c-{letters}{name.removeprefix(head)}"


def real_ids(folder: Path, ids: Iterable[str]) -> list[str]:
    """Return the store's ids of conversations that `write_conversations` wrote into the folder; others as they are."""
    path = folder / NAMES
    names = json.loads(path.read_text("utf-8")) if path.exists() else {}
    heads = ((name, conversation_of(name)) for name in ids)
    return [f"{names.get(head, head)}{name.removeprefix(head)}" for name, head in heads]


def facts_of(store: "Store", trained: Iterable[str], started: float, settings: str) -> dict[str, Any]:
    """Return what a version keeps of its store: by this `has_more` knows whether there is more to learn from.

    `settings` stands for those of the night. `left` is the number of conversations that no version has learned from: of
    those who are held out, for instance.
    """
    left = len(_unused(store) - set(map(conversation_of, trained)))
    return {"store": store.shown, "at": started, "left": left, "settings": settings}


def has_more(store: "Store", registry: Path, settings: str) -> bool:
    """Return whether anything was added since the newest version from this store, or the settings are others now."""
    facts = (version.data.get("collected") or {} for version in versions.versions(registry))
    last = next((one for one in reversed(list(facts)) if one.get("store") == store.shown), None)
    return (
        last is None
        or last["settings"] != settings
        or len(_unused(store)) > last["left"]
        or store.has_since(last["at"])
    )


def _unused(store: "Store") -> set[str]:
    return {conversation_of(one.id) for one in store.conversations(only_unused=True)}


def is_removed(store: "Store", folder: Path) -> bool:
    """Return whether anything that `write_conversations` wrote into the folder was removed from the store since."""
    try:
        collected = json.loads((folder / EXCHANGES).read_text("utf-8"))
    except FileNotFoundError:
        return True  # another version of this code collected, or beginning anew was interrupted
    return not store.exchange_ids().keys() >= set(collected)


def write_persons_of_input(source: Path, folder: Path, person: Callable[[str], str], key: Path) -> int:
    """Write whose the conversations of JSON lines with a user are, and return the number of those conversations.

    With this key the preparation hashes ids that look private.
    """
    secret = key.read_bytes().strip()
    files = [Path(name) for name, _, _ in input_listing(source)]
    persons: dict[str, str] = {}
    for file in (file for file in files if file.name.removesuffix(".gz").endswith(_LINES)):
        with suppress(RecordError):  # the preparation counts or says what it cannot read
            for row in (row for row in read_json(file) if isinstance(row, dict)):
                name, user = id_of(row, *_ID_NAMES), id_of(row, *_USER_NAMES)
                if name and user:
                    persons[shown_id(name, secret)] = person(user)
    _write_persons(folder, persons)
    return len(persons)


def _write_persons(folder: Path, persons: Mapping[str, str]) -> None:
    replace_file(folder / PERSONS, json.dumps(persons).encode())


def persons_key(registry: Path) -> Path:
    """Return the file of the registry with the secret by which persons are hashed."""
    return registry / ".persons.key"


def person_hash(registry: Path) -> Callable[[str], str]:
    """Return the function from a user's name to a hash; its key is a file of the registry, made if it is missing.

    Without the key nobody can try names until one has the hash.
    """
    path = persons_key(registry)
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_hex(32).encode()
        registry.mkdir(parents=True, exist_ok=True)
        replace_file(path, key)
        path.chmod(0o600)
    return lambda user: hmac.new(key, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]


@dataclass(frozen=True)
class Split:
    """The interactions to train on and those held out; `by` is person or conversation; `capped` were left out."""

    train: list[Interaction]
    held_out: list[Interaction]
    by: str
    persons: list[str]
    capped: int


def split(rows: Sequence[Interaction], persons: Mapping[str, str], share: float, most: float) -> Split:
    """Hold out a share of the persons, always the same ones, and limit what one person adds to the training.

    Where too few persons are known, conversations are held out, each with its branches. A conversation of nobody known
    counts as a person. With enough persons, also of conversations that have no row here, none who is held out is
    trained on: conversations of others are held out beside theirs where these are too few.
    """
    of = {name: persons.get(name) or f"? {conversation_of(name)}" for name in conversations_of(rows)}
    known = {name for name in of.values() if not name.startswith("? ")}
    enough = len({name for name in persons.values() if name}) >= _FEWEST_PERSONS
    by = "person"
    held_out = [row for row in rows if is_held_out(of[row.conversation_id], share)]
    many = not enough and (len(set(of.values())) < _FEWEST_PERSONS or len(held_out) > len(rows) / 2)
    if many or len(held_out) < _FEWEST_HELD_OUT:
        by = "conversation"
        own = {row.conversation_id for row in held_out if enough}
        held_out = [row for row in rows if row.conversation_id in own or _is_held_out(row, share)]
    elif not known:
        by = "conversation"
    ids = {row.conversation_id for row in held_out}
    train = [row for row in rows if row.conversation_id not in ids]
    capped = _capped(train, of, most) if len(known) >= _FEWEST_PERSONS else train
    used = sorted({of[row.conversation_id] for row in capped} & known)
    return Split(capped, held_out, by, used, len(train) - len(capped))


def _is_held_out(row: Interaction, share: float) -> bool:
    return is_held_out(conversation_of(row.conversation_id), share)


def _capped(rows: Sequence[Interaction], of: Mapping[str, str], most: float) -> list[Interaction]:
    """Return the rows without those by which a person exceeds this share of what is kept; each one's last rows stay.

    Of few persons, none can have a small share: twice an equal one is always allowed.
    """
    counts = Counter(of[row.conversation_id] for row in rows)
    most = max(most, 2 / max(2, len(counts)))
    # The rows kept grow with the limit, but ever less: from the first limit on that is too high, all are.
    limit = 1 + bisect_left(
        range(2, len(rows) + 1), True, key=lambda high: high > most * sum(min(count, high) for count in counts.values())
    )
    seen, kept = Counter[str](), list[Interaction]()
    for row in reversed(rows):
        person = of[row.conversation_id]
        seen[person] += 1
        if seen[person] <= limit or person.startswith("? "):
            kept.append(row)
    return kept[::-1]


def write_split(source: Path, folder: Path, settings: "LearnSettings") -> Split:
    """Split the interactions of a file into train.jsonl and held_out.jsonl. Raises RecordError if it has none."""
    rows = list(read_interactions(source, command("prep-logs")))
    persons = json.loads((folder / PERSONS).read_text("utf-8"))
    parts = split(rows, persons, settings.held_out, settings.max_person_share)
    for name, part in ((TRAIN, parts.train), (HELD_OUT, parts.held_out)):
        replace_file(folder / name, "".join(interaction_lines(part)).encode())
    return parts


def digest(*paths: Path) -> str:
    """Return a hash of the contents of files. Raises RecordError if one is missing."""
    parts = []
    for path in paths:
        try:
            with path.open("rb") as file:
                parts.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise RecordError(
                f"{path} cannot be read: {error.strerror}. Remove the run directory and start again."
            ) from None
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def conversations_of(rows: Iterable[Interaction]) -> list[str]:
    """Return the ids of the conversations of these interactions, in order."""
    return list(dict.fromkeys(row.conversation_id for row in rows))
