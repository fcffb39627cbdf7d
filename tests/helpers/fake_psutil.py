"""Processes that exist only in what psutil says of them, on any system."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import psutil
import pytest

STATUS = {"status": psutil.STATUS_SLEEPING, "num_threads": 1}


class FakeProcess:
    """Each fact is what psutil's method of that name returns, or the exception that it raises."""

    def __init__(self, pid: int, **facts: object) -> None:
        self.pid = pid
        self.facts: dict[str, object] = {
            **STATUS,
            "create_time": 100.0 + pid,
            "name": "server",
            "cmdline": ["python", "server.py"],
            "environ": {"HOME": "/home/me"},
            "cwd": "/home/me/shop",
            "ppid": 1,
            "uids": SimpleNamespace(real=1000),
            "username": "SHOP\\me",
            "terminal": None,
            "net_connections": [],
            "send_signal": None,
            "kill": None,
            **facts,
        }
        self.asked: list[tuple[object, ...]] = []

    def oneshot(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __getattr__(self, name: str) -> object:
        if name not in self.facts:
            raise AttributeError(name)

        def answer(*words: object, **named: object) -> object:
            self.asked.append((name, *words, *named.values()))
            said = self.facts[name]
            if isinstance(said, Exception):
                raise said
            return said

        return answer

    def signals(self) -> list[tuple[object, ...]]:
        """What was sent, in order."""
        return [asked for asked in self.asked if asked[0] in ("send_signal", "kill")]


class FakePsutil:
    """The processes of a machine; the fixture `machine` of a test module is one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.processes: dict[int, FakeProcess] = {}
        patch.setattr(psutil, "pids", lambda: list(self.processes))
        patch.setattr(psutil, "Process", self.process)
        patch.setattr(os, "getsid", lambda pid: pid, raising=False)  # there is none on Windows

    def process(self, pid: int) -> FakeProcess:
        if pid not in self.processes:
            raise psutil.NoSuchProcess(pid)
        return self.processes[pid]

    def add(self, pid: int = 7, /, **facts: object) -> FakeProcess:
        self.processes[pid] = FakeProcess(pid, **facts)
        return self.processes[pid]
