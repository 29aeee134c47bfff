"""Debian's Chromium, driven over its debugging pipe."""

import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab: goes to pages, evaluates JavaScript, keeps what went wrong."""

    def __init__(self, send: trio.lowlevel.FdStream) -> None:
        self.sending = send
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = trio.Event()
        self._session: str | None = None
        self.urls: list[str] = []
        self.problems: list[str] = []

    async def order(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        order: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            order["sessionId"] = self._session
        await self.sending.send_all(json.dumps(order).encode() + b"\0")
        with trio.fail_after(20):
            while number not in self._answers:
                await self._changed.wait()
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]  # type: ignore[no-any-return]

    async def read(self, stream: trio.lowlevel.FdStream) -> None:
        rest = b""
        while chunk := await stream.receive_some(65_536):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in messages:
                self._note(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        method, facts = message.get("method"), message.get("params", {})
        if "id" in message:
            self._answers[message["id"]] = message
            changed, self._changed = self._changed, trio.Event()
            changed.set()
        elif method == "Network.requestWillBeSent":
            self.urls.append(facts["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(facts["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and facts["type"] == "error":
            self.problems.append(json.dumps(facts["args"])[:500])
        elif method == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.problems.append(str(facts["entry"]))

    async def attach(self) -> None:
        created = await self.order("Target.createTarget", url="about:blank")
        target = created["targetId"]
        attached = await self.order(
            "Target.attachToTarget", targetId=target, flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.order(f"{domain}.enable")

    async def goto(self, url: str) -> None:
        await self.order("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def evaluate(self, code: str) -> Any:  # Any: JSON
        result = await self.order(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, claim: str, *, seconds: float = 10.0) -> None:
        """Wait until a JavaScript expression is true."""
        with trio.fail_after(seconds):
            while not await self.evaluate(f"Boolean({claim})"):
                await trio.sleep(0.05)

    async def press(self, selector: str) -> None:
        """Focus an element and press Enter, as a keyboard user does."""
        await self.evaluate(f"document.querySelector({selector!r}).focus()")
        for kind in ("keyDown", "keyUp"):
            await self.order(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter",
                windowsVirtualKeyCode=13, text="\r" if kind == "keyDown" else "",
            )  # fmt: skip

    async def look(self, *, dark: bool, width: int, height: int) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.order("Emulation.setEmulatedMedia", features=[scheme])
        await self.order(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    async def screenshot(self, path: Path) -> None:
        shot = await self.order("Page.captureScreenshot", format="png")
        path.write_bytes(b64decode(shot["data"]))


@asynccontextmanager
async def open_browser(folder: Path) -> AsyncGenerator[Page]:
    assert CHROMIUM is not None
    to_browser, orders = os.pipe()
    answers, from_browser = os.pipe()
    # Chromium wants to find them as 3 and 4.
    command = f'exec {CHROMIUM} "$@" 3<&{to_browser} 4>&{from_browser}'
    process = subprocess.Popen(
        ["bash", "-c", command, "chromium", "--headless=new", "--no-sandbox",
         "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage",
         "--disable-background-networking", "--no-first-run",
         f"--user-data-dir={folder / 'profile'}"],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    os.close(to_browser)
    os.close(from_browser)
    stream = trio.lowlevel.FdStream(answers)
    page = Page(trio.lowlevel.FdStream(orders))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(page.read, stream)
            await page.attach()
            yield page
            nursery.cancel_scope.cancel()
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
            await trio.aclose_forcefully(page.sending)
