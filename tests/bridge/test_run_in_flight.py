"""What is known of a run in a process."""

from typing import Any, cast

from dspex.runtime.bridge.protocol import ErrorInfo, Failed
from dspex.runtime.bridge.run_in_flight import RunInFlight


def test_a_run_keeps_the_last_failed_calls_and_not_all_of_a_compile() -> None:
    anything = cast("Any", None)  # Any: not asked here
    run = RunInFlight(anything, "dspy.MIPROv2", anything, anything)
    for number in range(10_000):
        run.failed(number, ValueError(number))
    assert len(run.failures) == 64
    info = ErrorInfo(kinds=["LMError"], message="", traceback="", call=9_950)
    error = run.outcome(Failed(1, info))
    assert isinstance(error, Exception)
    assert repr(error.__cause__) == "ValueError(9950)"
