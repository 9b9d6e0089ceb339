"""The tables of the store. They are the same in SQLite and in PostgreSQL.

Rows are added and completed, never rewritten; only `forget`, the retention and opting out delete any. Texts that may
hold any character are JSON: PostgreSQL's texts hold no zero character and no half of a surrogate pair.
"""

from sqlalchemy import Column, Float, Index, Integer, MetaData, Table, Text

METADATA = MetaData()

# One row, the version of the tables.
SCHEMA = Table("sdpo_schema", METADATA, Column("version", Integer, nullable=False))

CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("key", Text, nullable=False),  # the name of the gateway key, "" without one
    Column("user", Text, nullable=False),
    Column("started_at", Float, nullable=False),
)

# A request and its answer. Only what is new is kept: `parent` is the exchange whose answer the request went on from.
EXCHANGES = Table(
    "exchanges",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("conversation", Text, nullable=False),
    Column("parent", Text),
    Column("key", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("state", Text, nullable=False),  # open, complete, or broken off
    Column("gateway", Text, nullable=False),  # the process that answers it
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("request_id", Text, nullable=False),
    Column("message_id", Text),  # the client's name for the answer
    Column("model", Text, nullable=False),  # as it was sent to the upstream
    Column("version", Text, nullable=False),  # the registry's version that answered, "" for the base model
    Column("parameters", Text, nullable=False),  # JSON: temperature and the like
    Column("system", Text),  # JSON: the system messages, where they differ from the parent's
    Column("system_hash", Text),
    Column("messages", Text, nullable=False),  # JSON: what the request adds to the parent's messages and answer
    Column("answers", Text),  # JSON: the answer's message first, other choices after it
    Column("finish_reason", Text),
    Column("usage", Text),  # JSON
    Column("asked", Text, nullable=False),  # the hash of all messages of the request
    Column("answered", Text),  # the hash of these and the answer
    Column("said", Text),  # the hash of the answer alone
)
Index("exchanges_conversation", EXCHANGES.c.conversation)
Index("exchanges_asked", EXCHANGES.c.asked)
Index("exchanges_user_answered", EXCHANGES.c.user, EXCHANGES.c.answered)  # SQLite takes one index for both
Index("exchanges_parent", EXCHANGES.c.parent)
Index("exchanges_started", EXCHANGES.c.started_at)
Index("exchanges_message", EXCHANGES.c.message_id)
Index("exchanges_open", EXCHANGES.c.state)

# The answer of an open exchange so far, in pieces that are added before the client gets them.
PIECES = Table(
    "pieces",
    METADATA,
    Column("exchange", Text, primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("text", Text, nullable=False),  # JSON
)

RATINGS = Table(
    "ratings",
    METADATA,
    Column("id", Text, primary_key=True),  # the client's own name for it, else a new one
    Column("exchange", Text, nullable=False),
    Column("conversation", Text, nullable=False),
    Column("rating", Integer, nullable=False),  # 1 or -1
    Column("comment", Text),  # JSON
    Column("rated_at", Float, nullable=False),
)
Index("ratings_conversation", RATINGS.c.conversation)

# The runs that learned from a conversation, as it was at `until`.
USES = Table(
    "uses",
    METADATA,
    Column("conversation", Text, primary_key=True),
    Column("run", Text, primary_key=True),
    Column("until", Float, nullable=False),
    Column("used_at", Float, nullable=False),
)

# Where somebody opted out in the middle of a conversation, so that what goes on from there is not kept either.
OPT_OUTS = Table(
    "opt_outs",
    METADATA,
    Column("mark", Text, primary_key=True),  # the id of a conversation, or the hash of messages
    Column("opted_out_at", Float, nullable=False),
)

KEYS = Table(
    "keys",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("hash", Text, nullable=False, unique=True),
    Column("per_minute", Integer, nullable=False),  # 0 is no limit
    Column("at_once", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
)
