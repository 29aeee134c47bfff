"""Three steps in a row, a model that answers them, and what a store has."""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from dspex.providers import Request
from dspex.runtime.engine import Program, Step
from dspex.testing import ScriptedLM

CHAIN = Program(
    name="chain",
    steps={
        "first": Step(module="Predict", signature="ticket -> summary"),
        "second": Step(module="Predict", signature="summary -> category"),
        "third": Step(module="Predict", signature="category -> reply"),
    },
)


def answers(delay: float = 0.0) -> ScriptedLM:
    """Answer each question with JSON that tells which question it was."""

    def rule(request: Request) -> str:
        assert request.output_schema is not None
        asked = request.messages[-1].text.encode()
        value = hashlib.sha256(asked).hexdigest()[:8]
        fields: Any = request.output_schema.schema["properties"]
        return json.dumps(dict.fromkeys(fields, value))

    return ScriptedLM(rule, delay=delay)


def query(store: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(sql).fetchall()
