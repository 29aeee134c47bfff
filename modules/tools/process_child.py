"""The child's half of `process.py`: stdlib only, run by path.

Arguments: the path of `child_guard`, the descriptor for the answer, a memory limit in
MB (0 for none). Reads one JSON job from stdin and writes one JSON answer.
"""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import resource
import sys
from typing import Any


def main() -> None:
    """Run the job on stdin."""
    _guard(sys.argv[1])
    answer_fd, memory = int(sys.argv[2]), int(sys.argv[3])
    if memory:
        limit = memory * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    job = json.load(sys.stdin)
    answer: dict[str, Any]  # Any: JSON
    try:
        result = _run_source(job) if "source" in job else _run_function(job)
        answer = {"result": json.loads(json.dumps(result, default=str))}
    # The edge of the process: what the job raises travels as data.
    except BaseException as error:  # noqa: BLE001
        answer = {"error": type(error).__name__, "text": str(error)}
    with os.fdopen(answer_fd, "wb") as out:
        out.write(json.dumps(answer).encode())


def _guard(path: str) -> None:
    # Loaded by path: importing dspex here would cost more than the job.
    spec = importlib.util.spec_from_file_location("child_guard", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"no child guard at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.guard()


def _run_function(job: dict[str, Any]) -> Any:  # Any: JSON
    sys.path[:] = job["path"]
    found: Any = importlib.import_module(job["module"])  # Any: any module
    for name in job["function"].split("."):
        found = getattr(found, name)
    # A decorated function: the tool that took its name holds it.
    found = getattr(found, "function", found)
    result = found(**job["arguments"])
    if not inspect.iscoroutine(result):
        return result
    import trio  # only async functions need it

    async def wait() -> Any:  # Any: as above
        return await result

    return trio.run(wait)


def _run_source(job: dict[str, Any]) -> Any:  # Any: JSON
    """Run Python source and give what it printed and the value of its last line."""
    cpu = int(job["cpu_seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    tree = ast.parse(job["source"])
    last = (
        tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    )
    names: dict[str, Any] = {"__name__": "__tool__"}  # Any: the source's own
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<tool>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<tool>", "eval"), names)
    return {
        "printed": printed.getvalue(),
        "value": None if value is None else repr(value),
    }


if __name__ == "__main__":
    main()
