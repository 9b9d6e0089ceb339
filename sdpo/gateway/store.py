"""The store of conversations: opened by the gateway, which writes to it, and by the jobs that learn from it."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from sdpo.errors import RunError, one_line
from sdpo.gateway import migrations
from sdpo.gateway.conversations import BRANCH, StoredConversation, conversation_of, paths, stored, with_pieces
from sdpo.gateway.database import open_engine, shown, sqlite_path, writing
from sdpo.gateway.exchanges import conversation_rows, rating_row, whole_conversation
from sdpo.gateway.schema import CONVERSATIONS, EXCHANGES, PIECES, RATINGS, USES

_AT_ONCE = 200  # conversations that are read in one transaction
# An exchange that finished so shortly before `until` may not have been visible to who read the store then.
_UNSETTLED_SECONDS = 5.0


class Store:
    """The conversations behind an address: `sqlite:///FILE` or `postgresql+psycopg://...`.

    Opening it brings its tables to this code's version. Raises SettingError for an unusable address and RunError for a
    database that cannot be reached or is of a newer version.
    """

    def __init__(self, url: str, create: bool = True) -> None:
        self.shown = shown(url)
        self.path = sqlite_path(url)
        self.engine = open_engine(url, create)
        self.writing = writing(self.engine)
        try:
            with self.writing.begin() as connection:
                migrations.migrate(connection, self.shown)
        except OperationalError as error:
            raise RunError(
                f"the store {self.shown} cannot be opened: {one_line(error.orig or error, 200)} Start its database, or "
                "choose another STORE_URL."
            ) from None
        except SQLAlchemyError as error:
            raise RunError(f"the store {self.shown} cannot be used: {one_line(error, 200)}") from None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def insert(self, table: Any) -> Any:
        """Return an INSERT for the store's database that can say what to do ON CONFLICT."""
        return (postgresql if self.engine.dialect.name == "postgresql" else sqlite).insert(table)

    # Reading

    def conversations(self, *, only_unused: bool = False) -> Iterator[StoredConversation]:
        """Yield the conversations in the order in which they started, branches of one together, the newest first.

        `only_unused` leaves out those to which nothing, no rating either, was added since `mark_used`. An answer that
        is still being given is in it as far as it has come.
        """
        last: tuple[float, str] | None = None
        while True:
            with self.engine.begin() as connection:
                chunk = self._chunk(connection, last, only_unused)
                found = list(self._assembled(connection, [row["id"] for row in chunk]))
            yield from found
            if len(chunk) < _AT_ONCE:
                return
            last = (chunk[-1]["started_at"], chunk[-1]["id"])

    def conversation(self, name: str) -> StoredConversation | None:
        """Return one conversation or branch by its id, None if there is none."""
        with self.engine.begin() as connection:
            found = self._assembled(connection, list(dict.fromkeys([name, conversation_of(name)])))
            return next((one for one in found if one.id == name), None)

    def exchange_count(self) -> int:
        """Return the number of stored exchanges."""
        with self.engine.begin() as connection:
            return connection.execute(select(func.count()).select_from(EXCHANGES)).scalar_one()

    def users(self) -> dict[str, str]:
        """Return the user, "" if unknown, with whom each conversation began, by the conversation's id."""
        with self.engine.begin() as connection:
            rows = connection.execute(select(CONVERSATIONS.c.id, CONVERSATIONS.c.user))
            return {row.id: row.user for row in rows}

    def has_since(self, at: float) -> bool:
        """Return whether an exchange or a rating was added, or an answer ended, since then."""
        covered = at - _UNSETTLED_SECONDS
        ended = select(EXCHANGES.c.id).where(func.coalesce(EXCHANGES.c.finished_at, EXCHANGES.c.started_at) > covered)
        rated = select(RATINGS.c.id).where(RATINGS.c.rated_at > covered)
        with self.engine.begin() as connection:
            return any(connection.execute(query.limit(1)).first() is not None for query in (ended, rated))

    def exchange_ids(self) -> dict[str, str]:
        """Return the conversation of each stored exchange, by the exchange's id."""
        with self.engine.begin() as connection:
            return {
                row.id: row.conversation for row in connection.execute(select(EXCHANGES.c.id, EXCHANGES.c.conversation))
            }

    def _chunk(self, connection: Connection, last: tuple[float, str] | None, only_unused: bool) -> list[dict[str, Any]]:
        table = CONVERSATIONS.c
        query = select(table.id, table.started_at).order_by(table.started_at, table.id).limit(_AT_ONCE)
        if last is not None:
            started_at, name = last
            query = query.where(
                or_(table.started_at > started_at, (table.started_at == started_at) & (table.id > name))
            )
        if only_unused:
            used = select(func.max(USES.c.until)).where(USES.c.conversation == table.id).scalar_subquery()
            newest = (
                select(func.max(func.coalesce(EXCHANGES.c.finished_at, EXCHANGES.c.started_at)))
                .where(EXCHANGES.c.conversation == table.id)
                .scalar_subquery()
            )
            rated = select(func.max(RATINGS.c.rated_at)).where(RATINGS.c.conversation == table.id).scalar_subquery()
            query = query.where(or_(used.is_(None), newest > used, rated > used))
        return _rows(connection, query)

    def _assembled(self, connection: Connection, names: Sequence[str]) -> Iterator[StoredConversation]:
        if not names:
            return
        rows = read_exchanges(connection, names)
        ratings: dict[str, dict[str, Any]] = {}
        query = select(RATINGS).where(RATINGS.c.conversation.in_(names)).order_by(RATINGS.c.rated_at, RATINGS.c.id)
        for rating in _rows(connection, query):
            ratings[rating["exchange"]] = rating
        for name in names:
            for number, path in enumerate(paths(rows.get(name, [])), start=1):
                yield stored(f"{name}{BRANCH}{number}" if number > 1 else name, path, ratings)

    # Writing without a gateway

    def add_conversation(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        id: str | None = None,
        user: str = "",
        ratings: Iterable[dict[str, Any]] = (),
        versions: Sequence[str] = (),
        started_at: float | None = None,
    ) -> str:
        """Add a whole conversation as it is, each answer as an exchange, and return its id.

        The arguments are as in StoredConversation. Nothing is redacted.
        """
        rows, by_index = whole_conversation(messages, id, user, versions, started_at)
        with self.writing.begin() as connection:
            connection.execute(self.insert(CONVERSATIONS).on_conflict_do_nothing(), conversation_rows(rows))
            connection.execute(insert(EXCHANGES), rows)
            for rating in ratings:
                row = by_index[rating["message"]]
                connection.execute(insert(RATINGS), rating_row(row, rating["rating"], rating.get("comment")))
        return rows[0]["conversation"]

    # What was learned

    def mark_used(self, ids: Iterable[str], run: str, until: float | None = None) -> None:
        """Note that a run learned from these conversations. Those that were removed meanwhile are left out.

        `until` is when the run began to read them, so that what was said since then still counts as not used; None is
        now.
        """
        now = time.time()
        covered = now if until is None else until - _UNSETTLED_SECONDS
        names = dict.fromkeys(conversation_of(name) for name in ids)
        with self.writing.begin() as connection:
            kept = names.keys() & set(connection.execute(select(CONVERSATIONS.c.id)).scalars())
            rows = [
                {"conversation": name, "run": run, "until": covered, "used_at": now} for name in names if name in kept
            ]
            if not rows:
                return
            statement = self.insert(USES)
            statement = statement.on_conflict_do_update(
                index_elements=["conversation", "run"],
                set_={"until": statement.excluded.until, "used_at": statement.excluded.used_at},
            )
            connection.execute(statement, rows)

    def unmark_used(self, run: str) -> None:
        """Take back that this run learned from any conversation."""
        with self.writing.begin() as connection:
            connection.execute(delete(USES).where(USES.c.run == run))

    def used_by(self, id: str) -> list[str]:
        """Return the runs that learned from a conversation, in the order in which they did."""
        query = select(USES.c.run).where(USES.c.conversation == conversation_of(id)).order_by(USES.c.used_at)
        with self.engine.begin() as connection:
            return list(connection.execute(query).scalars())


def read_exchanges(connection: Connection, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of EXCHANGES by conversation; those still open with their answers so far."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    pieces: dict[str, list[dict[str, Any]]] = defaultdict(list)
    query = select(PIECES).join(EXCHANGES, EXCHANGES.c.id == PIECES.c.exchange)
    for piece in _rows(connection, query.where(EXCHANGES.c.conversation.in_(names))):
        pieces[piece["exchange"]].append(piece)
    for row in _rows(connection, select(EXCHANGES).where(EXCHANGES.c.conversation.in_(names))):
        rows[row["conversation"]].append(with_pieces(row, pieces[row["id"]]))
    return rows


def _rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]
