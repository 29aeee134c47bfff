"""Terms: how reasons and errors of dspex are spelt in OTP's traces."""

from typing import Any, cast

from dspex.runtime import Shutdown
from dspex.supervisors import (
    ChildAlreadyStartedError,
    ChildNotFoundError,
    ChildPresentError,
    ChildRestartingError,
    ChildRunningError,
    ChildSpec,
    ChildSpecError,
    ChildStartError,
    FailedToStartChild,
    SimpleOneForOneError,
    SupervisorError,
)

Json = Any  # Any: JSON as the trace files hold it

_WORDS: dict[type[SupervisorError], str] = {
    ChildNotFoundError: "not_found",
    ChildRunningError: "running",
    ChildRestartingError: "restarting",
    ChildPresentError: "already_present",
    ChildAlreadyStartedError: "already_started",
    SimpleOneForOneError: "simple_one_for_one",
}
_SPEC_WORDS = {
    "restart": "invalid_restart_type",
    "shutdown": "invalid_shutdown",
    "type": "invalid_child_type",
}


class RaisedError(Exception):
    """What a scenario's `raise` raises."""


def reason_in(reason: Json) -> object:
    """Give a scenario's reason as dspex has it."""
    if isinstance(reason, dict):
        return Shutdown(cast("dict[str, Json]", reason)["shutdown"])
    return RaisedError("boom") if reason == "raise" else reason


def reason_out(reason: object) -> Json:
    """Give an exit reason as a trace spells it."""
    if isinstance(reason, Shutdown):
        return {"shutdown": reason_out(reason.detail)}
    if isinstance(reason, FailedToStartChild):
        return {"failed_to_start_child": [reason.child, reason_out(reason.reason)]}
    if isinstance(reason, ChildSpecError):
        return _spec_error(reason, inside_start=True)
    if isinstance(reason, BaseException):
        return {"raised": str(reason)}
    return reason


def error_out(error: SupervisorError) -> Json:
    """Give a refusal of a supervisor as a trace spells it."""
    if isinstance(error, ChildSpecError):
        return _spec_error(error, inside_start=False)
    if isinstance(error, ChildStartError):
        return reason_out(error.reason)
    return _WORDS[type(error)]


def _spec_error(error: ChildSpecError, *, inside_start: bool) -> Json:
    if error.child == "supervisor" and error.field != "id":
        if error.field == "children":
            return {"bad_start_spec": ["spec" for _ in error.value]}  # type: ignore[attr-defined]
        return {"supervisor_data": {f"invalid_{error.field}": error.value}}
    if error.field == "id":
        term: Json = (
            {"duplicate_child_name": error.value} if error.value else "missing_id"
        )
    elif error.field == "significant":
        cause = (
            {"restart": "permanent"}
            if "permanent" in error.allowed
            else {"auto_shutdown": "never"}
        )
        term = {"bad_combination": [cause, {"significant": True}]}
    else:
        value = error.value
        if isinstance(value, int | float):
            value = round(value * 1000)
        term = {_SPEC_WORDS[error.field]: value}
    return {"start_spec": term} if inside_start else term


def spec_out(spec: ChildSpec) -> Json:
    """Give a child spec as `get_childspec` answers it."""
    shutdown = spec.shutdown
    return {
        "id": spec.id,
        "restart": spec.restart,
        "shutdown": shutdown if isinstance(shutdown, str) else round(shutdown * 1000),
        "significant": spec.significant,
        "type": spec.type,
    }
