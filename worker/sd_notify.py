"""sd_notify: tell systemd that the worker is ready, alive, reloading or stopping.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import os
import socket

import trio


class Notifier:
    """Speaks to systemd where it started the worker with Type=notify; else silent."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        usec = os.environ.get("WATCHDOG_USEC", "")
        for_me = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and for_me else None

    def tell(self, state: str) -> None:
        """Send one state, such as READY=1; a manager that is gone is no failure."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
            it.setblocking(False)  # a manager that does not read holds nobody up
            try:
                it.sendto(state.encode(), address)
            except OSError:
                return

    async def keep_alive(self) -> None:
        """Pat the watchdog from the runtime's own loop: a wedged one stops doing it."""
        if self._watchdog_seconds is None or not self._address:
            return
        while True:
            self.tell("WATCHDOG=1")
            await trio.sleep(self._watchdog_seconds / 2)
