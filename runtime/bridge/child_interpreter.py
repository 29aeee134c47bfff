"""The sandbox in which dspy runs the code that a model wrote: Python in Deno.

dspy's `PythonInterpreter` starts the program `deno`, which loads Python for WebAssembly
from the npm registry, and one function from a site of Deno's own. `deno/` holds that
function, so that the registry, or its cache, is all that a machine must reach.
"""

from pathlib import Path
from typing import Any

from dspex.runtime.bridge.child_dspy import load_dspy

_IMPORTS = Path(__file__).parent / "deno" / "imports.json"


def make_interpreter() -> Any:  # Any: dspy's PythonInterpreter
    """Give a new interpreter; it starts its process when it first runs something."""
    interpreter: Any = load_dspy().PythonInterpreter()
    interpreter.deno_command[2:2] = [f"--import-map={_IMPORTS}"]
    return interpreter
