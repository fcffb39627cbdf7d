"""Windows: psutil, without users by number, sessions, terminals and polite signals."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psutil

from portfree._system.interface import Process, Signal
from portfree._system.probe import exclusive_bind
from portfree._system.psutil_base import REFUSALS, PsutilSystem, Seat, ask


class WindowsSystem(PsutilSystem):
    """The `System` of Windows."""

    name = "win32"
    polite = False
    bind = staticmethod(exclusive_bind)

    @property
    def privileged(self) -> bool:
        windows: Any = ctypes  # type checkers on other systems do not know the name
        return bool(windows.WinDLL("shell32").IsUserAnAdmin())

    def elevate(self) -> str:
        return "as an administrator: "

    def signal(self, proc: psutil.Process, signal: Signal) -> None:
        """End the process, for Windows has no way to ask it; CONT does nothing. psutil takes a
        refusal of TerminateProcess for the end of the process, which it mostly is (its issue 1099):
        only the next survey proves anything.
        """
        if signal != "CONT":
            proc.kill()

    def _facts(self, proc: psutil.Process, start: float) -> Process:
        facts = super()._facts(proc, start)
        if facts.ppid is None:
            return facts
        # Windows keeps naming a parent that has ended, whose pid may be another process's by now:
        # one that is younger than its child.
        try:
            born = ask(psutil.Process(facts.ppid).create_time)
        except psutil.NoSuchProcess:
            return facts._replace(ppid=None)
        ended = born is not None and facts.started is not None and born > facts.started
        return facts._replace(ppid=None) if ended else facts

    def _seat(self, proc: psutil.Process) -> Seat:
        return Seat(ask(proc.username))

    def _running_services(self) -> Mapping[int, str] | None:
        every: Callable[[], Iterable[Any]] = vars(psutil)["win_service_iter"]  # on Windows alone
        services: dict[int, str] = {}
        try:
            for service in every():
                pid = ask(service.pid)
                if pid:  # it runs, was not removed since, and lets us know
                    services.setdefault(pid, service.name())
        except REFUSALS:
            return None
        return services
