"""`dspex doctor`: what is installed, what works, what to do about what does not."""

import os
import platform
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Final, Literal

import msgspec
import trio
from rich.console import Console

from dspex.providers.embedded import Embedded
from dspex.providers.embedded_server import EmbeddedServer
from dspex.providers.errors import MissingPackageError
from dspex.providers.messages import Request
from dspex.runtime import DspexError, Node, StartError, open_node
from dspex.runtime.bridge import DspyBridge
from dspex.worker.run_command import ALL_GOOD, SOME_FAILED

_CHECK_SECONDS: Final = 90.0

State = Literal["ok", "off", "bad"]
_MARKS: Final[dict[State, str]] = {
    "ok": "[green]ok [/green]",
    "off": "[yellow]off[/yellow]",
    "bad": "[red]bad[/red]",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: ok, off (optional and not there) or bad."""

    state: State
    name: str
    text: str
    remedy: str = ""


async def run_doctor(*, as_json: bool = False) -> int:
    """Print each finding as it is made; 0 if nothing is bad."""
    console = Console()

    def show(finding: Finding) -> None:
        if as_json:
            print(msgspec.json.encode(finding).decode(), flush=True)  # noqa: T201
        else:
            _show(console, finding)

    findings = [_check_python(), _check_platform(), _check_dspex(), _check_key()]
    for finding in findings:
        show(finding)
    async with open_node(shutdown_timeout=1.0) as node:
        for check in (_check_embedded, _check_dspy):
            findings.append(await _bounded(check, node))
            show(findings[-1])
    bad = sum(finding.state == "bad" for finding in findings)
    if as_json:
        return SOME_FAILED if bad else ALL_GOOD
    off = sum(finding.state == "off" for finding in findings)
    if bad:
        console.print(f"\n{bad} of {len(findings)} checks are bad.")
        return SOME_FAILED
    console.print(f"\nEverything installed works{', some is off' if off else ''}.")
    return ALL_GOOD


def _show(console: Console, finding: Finding) -> None:
    console.print(f"{_MARKS[finding.state]} {finding.name}: ", end="")
    console.print(finding.text, markup=False, highlight=False)
    if finding.remedy:
        console.print(f"    -> {finding.remedy}", markup=False, highlight=False)


def _check_python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}"
    return Finding("ok", "python", text)


def _check_platform() -> Finding:
    if sys.platform != "linux":
        return Finding(
            "bad",
            "platform",
            f"{sys.platform}: child processes are guarded on Linux only",
            "run dspex on Linux",
        )
    return Finding("ok", "platform", f"{platform.system()} {platform.machine()}")


def _check_dspex() -> Finding:
    return Finding("ok", "dspex", metadata.version("dspex"))


def _check_key() -> Finding:
    if os.environ.get("OPENAI_API_KEY"):
        return Finding("ok", "openai", "OPENAI_API_KEY is set")
    return Finding(
        "off",
        "openai",
        "OPENAI_API_KEY is not set",
        "export OPENAI_API_KEY=... to use --lm openai:MODEL",
    )


async def _bounded(check: Callable[[Node], Awaitable[Finding]], node: Node) -> Finding:
    name = check.__name__.removeprefix("_check_")
    with trio.move_on_after(_CHECK_SECONDS):
        return await check(node)
    return Finding("bad", name, f"no answer within {_CHECK_SECONDS:g} s")


def _not_started(name: str, package: str, error: StartError) -> Finding:
    reason = error.reason
    if isinstance(reason, MissingPackageError):
        return Finding("off", name, reason.problem, reason.what_to_do)
    text = str(reason) if isinstance(reason, DspexError) else str(error)
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return Finding("off", name, text)
    return Finding("bad", name, text, "run with --debug to see its log")


async def _check_embedded(node: Node) -> Finding:
    started = trio.current_time()
    try:
        await node.start(EmbeddedServer(), name="embedded")
    except StartError as error:
        return _not_started("embedded model", "xllamacpp", error)
    ready = trio.current_time() - started
    lm = Embedded(node.registry, server="embedded")
    async with lm:
        request = Request.of("Say yes.")
        response = await lm.complete(request, timeout=60.0)
    return Finding(
        "ok",
        "embedded model",
        f"{lm.name} started in {ready:.1f} s, answered {response.usage.output_tokens} "
        f"tokens in {response.seconds:.1f} s",
    )


async def _check_dspy(node: Node) -> Finding:
    started = trio.current_time()
    try:
        ref = await node.start(DspyBridge(), name="dspy")
    except StartError as error:
        return _not_started("dspy process", "dspy", error)
    pid = await ref.call(DspyBridge.pid)
    seconds = trio.current_time() - started
    return Finding(
        "ok",
        "dspy process",
        f"dspy {metadata.version('dspy')} started in {seconds:.1f} s (pid {pid})",
    )
