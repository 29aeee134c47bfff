"""Bringing a store to the tables that this version of dspex knows."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, inspect, text

HEAD: Final = "0001"
"""The newest migration; a store of any other that is not an ancestor is newer."""

# Any number, the same for every dspex that migrates one Postgres database.
_POSTGRES_LOCK: Final = 0x64737065

Refuse = Callable[[str], Exception]


def migrate(connection: Connection, *, newer: Refuse, foreign: Refuse) -> None:
    """Create or upgrade the tables inside the open transaction.

    A store that is up to date costs one query. `newer` and `foreign` make the error
    for a store of a later dspex, and for a database that is none.
    """
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(:key)")
        connection.execute(lock, {"key": _POSTGRES_LOCK})
    tables = set(inspect(connection).get_table_names())
    found = None
    if "alembic_version" in tables:
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if found == HEAD:
        return
    if found is None and tables & {"program", "run", "effect", "event", "worker"}:
        raise foreign("its tables are not those of a dspex store")
    # Here, not above: a store that is up to date need not wait for this import.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "dspex.runtime.journal:migrations")
    config.attributes["connection"] = connection
    if found is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(found)
        except CommandError:
            raise newer(
                f"its schema is {found!r}, and this dspex knows up to {HEAD!r}"
            ) from None
    command.upgrade(config, HEAD)
