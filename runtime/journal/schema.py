"""The store's tables. A change here needs a migration beside it."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts up only columns of the type INTEGER.
_Counter = BigInteger().with_variant(Integer, "sqlite")

program = Table(
    "program",
    metadata,
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("parent", Integer),
    Column("made_by", Text, nullable=False),
    Column("scores", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    PrimaryKeyConstraint("name", "version"),
)

run = Table(
    "run",
    metadata,
    Column("id", Text, primary_key=True),
    Column("program", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("outputs", Text),
    Column("error", Text),
    Column("steps", Text),
    Column("owner", Text),
    Column("epoch", Integer, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Index("ix_run_state", "state", "accepted_at"),
    Index("ix_run_accepted_at", "accepted_at"),
    Index("ix_run_owner", "owner"),
)

effect = Table(
    "effect",
    metadata,
    Column("run", Text, ForeignKey("run.id", ondelete="CASCADE"), nullable=False),
    Column("path", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("occurrence", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("request", Text),
    Column("response", Text),
    Column("usage", Text),
    Column("seconds", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
    PrimaryKeyConstraint("run", "path", "fingerprint", "occurrence"),
)

event = Table(
    "event",
    metadata,
    Column("number", _Counter, primary_key=True, autoincrement=True),
    Column("run", Text, ForeignKey("run.id", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("ix_event_run", "run", "number"),
)

worker = Table(
    "worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("beat", Integer, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", Text, nullable=False),
)
