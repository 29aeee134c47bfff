"""Applying writes of programs: immutable versions."""

import json
from collections.abc import Sequence
from typing import cast

from sqlalchemy import Connection, RowMapping, insert, select

from dspex.runtime.journal import schema
from dspex.runtime.journal.fences import Answer, Fences
from dspex.runtime.journal.reads import program_version
from dspex.runtime.journal.records import ProgramVersion
from dspex.runtime.journal.writes import SaveProgram


def save_programs(
    connection: Connection, writes: Sequence[SaveProgram], _: Fences
) -> list[Answer]:
    """Keep versions; give each."""
    return [_save_program(connection, write) for write in writes]


def _save_program(connection: Connection, write: SaveProgram) -> ProgramVersion:
    table = schema.program
    rows = connection.execute(
        select(table).where(table.c.name == write.name).order_by(table.c.version.desc())
    ).mappings()
    versions = [program_version(row) for row in rows]
    same = [found for found in versions if found.digest == write.digest]
    if same and (not write.always_new or same[0] is versions[0]):
        return same[0]
    newest = versions[0].version if versions else 0
    values = {
        "name": write.name,
        "version": newest + 1,
        "digest": write.digest,
        "body": write.body,
        "parent": write.parent if write.parent is not None else newest or None,
        "made_by": write.made_by,
        "scores": json.dumps(dict(write.scores)),
        "created_at": write.created_at,
    }
    connection.execute(insert(table), values)
    return program_version(cast("RowMapping", values))
