"""OpenAPI: the worker's API as data, with the inputs of the programs it has loaded."""

from collections.abc import Iterable
from importlib import metadata
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from dspex.runtime.engine import Plan

JSON = dict[str, Any]  # Any: JSON

_STATUS: Final = {
    "type": "string",
    "enum": ["pending", "running", "succeeded", "failed", "cancelled"],
}
_TIME: Final = {"type": ["number", "null"], "description": "Seconds since the epoch."}
_SUMMARY: Final[JSON] = {
    "type": "object",
    "required": ["run_id", "program", "status", "accepted_at", "finished_at"],
    "properties": {
        "run_id": {"type": "string"},
        "program": {"type": "string"},
        "status": _STATUS,
        "accepted_at": _TIME,
        "finished_at": _TIME,
    },
}
_RUN: Final[JSON] = {
    "type": "object",
    "required": [
        *_SUMMARY["required"],
        "inputs",
        "outputs",
        "steps",
        "cost_usd",
        "error",
    ],
    "properties": {
        **_SUMMARY["properties"],
        "inputs": {"type": "object"},
        "outputs": {"type": "object"},
        "steps": {"type": "array", "items": {"type": "object"}},
        "cost_usd": {"type": ["number", "null"]},
        "error": {"type": ["string", "null"]},
    },
}
_PROGRAM: Final[JSON] = {
    "type": "object",
    "required": ["name", "digest", "inputs", "outputs", "steps"],
    "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "digest": {"type": "string"},
        "inputs": {"type": "object"},
        "outputs": {"type": "object"},
        "steps": {"type": "array", "items": {"type": "object"}},
    },
}
_ERROR: Final[JSON] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_PROBLEMS: Final = {
    "400": "The request is not HTTP or JSON.",
    "401": "The token is missing or wrong.",
    "403": "The request comes from another origin.",
    "404": "There is no such program or run.",
    "405": "This path has other methods.",
    "408": "The body did not arrive in time.",
    "409": "The idempotency key belongs to another run.",
    "413": "The body is too long.",
    "415": "The body is not application/json.",
    "421": "The Host header is not this worker's.",
    "422": "The inputs, or a parameter, are not what they should be.",
    "429": "Too many requests; see Retry-After.",
    "500": "A row of the store is damaged, or the worker failed.",
    "503": "The worker is full or stopping; see Retry-After. Or its store is unusable.",
}
_RUN_ID: Final = {
    "name": "run",
    "in": "path",
    "required": True,
    "description": "The run's id, or as much of its beginning as no other run has.",
    "schema": {"type": "string"},
}
_WAIT: Final = {
    "name": "wait",
    "in": "query",
    "description": "Seconds to wait for the run's end.",
    "schema": {"type": "number", "minimum": 0},
}


def input_schema(plan: Plan) -> JSON:
    """Give the JSON Schema of a program's inputs."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(plan.inputs),
        "properties": {name: _schema(it) for name, it in plan.inputs.items()},
    }


def output_schema(plan: Plan) -> JSON:
    """Give the JSON Schema of a program's outputs."""
    types = {
        name: plan.shapes[ref.step].outputs[ref.field]
        for name, ref in plan.outputs.items()
        if ref.step is not None
    }
    return {
        "type": "object",
        "properties": {name: _schema(it) for name, it in types.items()},
    }


def _version() -> str:
    try:
        return metadata.version("dspex")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0"


def _schema(annotation: Any) -> JSON:  # Any: types that are no classes
    try:
        return TypeAdapter(annotation).json_schema()
    except PydanticInvalidForJsonSchema:
        return {}


def _answers(schema: JSON, *, status: str = "200", kind: str | None = None) -> JSON:
    good = {
        "description": "As asked.",
        "content": {kind or "application/json": {"schema": schema}},
    }
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    bad = {
        code: {"description": text, "content": error}
        for code, text in _PROBLEMS.items()
    }
    return {status: good, **bad}


def describe_api(plans: Iterable[Plan], *, has_token: bool) -> JSON:
    """Give the OpenAPI document of a worker that has these programs."""
    run = {"$ref": "#/components/schemas/Run"}
    summaries = {"type": "array", "items": {"$ref": "#/components/schemas/Summary"}}
    program = {"$ref": "#/components/schemas/Program"}
    programs = {"type": "array", "items": program}
    count = {"type": "integer", "minimum": 0, "maximum": 10**15}
    paths: JSON = {
        "/v1/programs": _get(
            "List the programs.",
            {"type": "object", "properties": {"programs": programs}},
        ),
        "/v1/runs": _get(
            "List runs, newest first.",
            {"type": "object", "properties": {"runs": summaries}},
            {"name": "status", "in": "query", "schema": _STATUS},
            {"name": "program", "in": "query", "schema": {"type": "string"}},
            {"name": "before", "in": "query", "schema": {"type": "string"}},
            {"name": "limit", "in": "query", "schema": count},
        ),
        "/v1/runs/{run}": _get("Show a run.", run, _RUN_ID, _WAIT),
        "/v1/runs/{run}/cancel": {
            "post": {
                "summary": "Cancel a run.",
                "operationId": "cancel_run",
                "parameters": [_RUN_ID],
                "responses": _answers(run),
            }
        },
        "/v1/runs/{run}/events": _get(
            "Follow a run by server-sent events; those of the kind delta have no id.",
            {
                "type": "object",
                "required": ["data"],
                "properties": {
                    name: {"type": "string"} for name in ("id", "event", "data")
                },
            },
            _RUN_ID,
            {
                "name": "Last-Event-ID",
                "in": "header",
                "schema": {"type": "integer", "minimum": 0, "maximum": 10**15},
            },
            kind="text/event-stream",
        ),
        "/healthz": _get("Whether the worker lives.", {"type": "object"}),
        "/readyz": _get("Whether it accepts runs.", {"type": "object"}),
        "/metrics": _get("For Prometheus.", {"type": "string"}, kind="text/plain"),
    }
    for path in ("/healthz", "/readyz"):
        paths[path]["get"]["security"] = []  # open without the token
    # What the links of an accepted run name.
    paths["/v1/runs/{run}"]["get"]["operationId"] = "show_run"
    paths["/v1/runs/{run}/events"]["get"]["operationId"] = "stream_events"
    for plan in plans:
        base = f"/v1/programs/{plan.program.name}"
        paths[base] = _get(f"Show {plan.program.name}.", program)
        paths[f"{base}/runs"] = {"post": _create(plan, run)}
    document: JSON = {
        "openapi": "3.1.0",
        "info": {"title": "dspex worker", "version": _version()},
        "paths": paths,
        "components": {
            "schemas": {
                "Run": _RUN, "Summary": _SUMMARY, "Program": _PROGRAM, "Error": _ERROR,
            }
        },
    }  # fmt: skip
    if has_token:
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"token": scheme}
        document["security"] = [{"token": []}]
    return document


def _get(
    summary: str, schema: JSON, *parameters: JSON, kind: str | None = None
) -> JSON:
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": _answers(schema, kind=kind),
        }
    }


def _create(plan: Plan, run: JSON) -> JSON:
    body = {
        "type": "object",
        "additionalProperties": False,
        "required": ["inputs"],
        "properties": {"inputs": input_schema(plan)},
    }
    text = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"}
    key = {"name": "Idempotency-Key", "in": "header", "schema": text}
    given = {"parameters": {"run": "$response.body#/run_id"}}
    accepted = {
        **_answers(run)["200"],
        "links": {
            "show": {"operationId": "show_run", **given},
            "follow": {"operationId": "stream_events", **given},
            "cancel": {"operationId": "cancel_run", **given},
        },
    }
    return {
        "summary": f"Run {plan.program.name}.",
        "description": plan.program.description,
        "parameters": [_WAIT, key],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body}},
        },
        "responses": {**_answers(run), "200": accepted, "202": accepted},
    }
