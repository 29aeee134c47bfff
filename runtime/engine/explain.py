"""Explaining a plan: its graph as text."""

from graphlib import TopologicalSorter

from dspex.runtime.engine.plan import Literal, Plan, Reference, type_name


def explain(plan: Plan) -> str:
    """Give a plan as lines of text: inputs, steps in order of start, outputs.

    Steps of one level run in parallel.
    """
    lines = [f"program {plan.program.name}"]
    for name, kind in plan.inputs.items():
        lines.append(f"  input   {name}: {type_name(kind)}")
    order = TopologicalSorter(plan.dependencies)
    order.prepare()
    level = 0
    while order.is_active():
        level += 1
        started = set(order.get_ready())
        ready = [name for name in plan.program.steps if name in started]
        for name in ready:
            lines += _step(plan, name, level)
        order.done(*ready)
    for name, source in plan.outputs.items():
        lines.append(f"  output  {name} = {_source(source)}")
    lines += [f"  warning {it}" for it in plan.warnings]
    return "\n".join(lines)


def _step(plan: Plan, name: str, level: int) -> list[str]:
    step = plan.program.steps[name]
    lines = [f"  {level:>3}.    {name}  [{step.backend}] {step.module}"]
    for field, source in plan.wiring[name].items():
        each = " (each item)" if step.map and field in step.map else ""
        lines.append(f"            {field} <- {_source(source)}{each}")
    given = ", ".join(
        f"{field}: {type_name(kind)}"
        for field, kind in plan.shapes[name].outputs.items()
    )
    lines.append(f"            -> {given}")
    if step.after:
        lines.append(f"            after {', '.join(step.after)}")
    if step.when is not None:
        lines.append(f"            when {step.when}")
    options = step.options
    told = [f"timeout {options.timeout:g}s"]
    if options.retries:
        told.append(f"{options.retries} retries")
    if options.on_error != "fail":
        told.append(f"on error {options.on_error}")
    if step.map:
        told.append(f"{options.concurrency} items at a time")
    if step.demos:
        told.append(f"{len(step.demos)} demos")
    lines.append(f"            {', '.join(told)}")
    return lines


def _source(source: Reference | Literal) -> str:
    if isinstance(source, Literal):
        return repr(source.value)
    return f"{source.step or 'inputs'}.{source.field}"
