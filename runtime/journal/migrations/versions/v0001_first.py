"""Programs, runs, effects, events and workers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "program",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("made_by", sa.Text, nullable=False),
        sa.Column("scores", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="pk_program"),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("program", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("outputs", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("steps", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("accepted_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
    )
    op.create_index("ix_run_state", "run", ["state", "accepted_at"])
    op.create_index("ix_run_accepted_at", "run", ["accepted_at"])
    op.create_index("ix_run_owner", "run", ["owner"])
    op.create_table(
        "effect",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("occurrence", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("request", sa.Text),
        sa.Column("response", sa.Text),
        sa.Column("usage", sa.Text),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint(
            "run", "path", "fingerprint", "occurrence", name="pk_effect"
        ),
        sa.ForeignKeyConstraint(
            ["run"], ["run.id"], name="fk_effect_run", ondelete="CASCADE"
        ),
    )
    counter = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "event",
        sa.Column("number", counter, nullable=False, autoincrement=True),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_event"),
        sa.ForeignKeyConstraint(
            ["run"], ["run.id"], name="fk_event_run", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_event_run", "event", ["run", "number"])
    op.create_table(
        "worker",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("beat", sa.Integer, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
    )
