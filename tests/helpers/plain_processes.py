"""Processes as plain as possible, and those that are there in every scene: see `builders`."""

from __future__ import annotations

import shlex
from typing import Any

from portfree._system.interface import Process
from portfree.model import Port

ME, BOB, ROOT = 1000, 1001, 0
NAMES = {ME: "me", BOB: "bob", ROOT: "root"}
HOME = "/home/me"
PROJECT = "/home/me/shop"
ELSEWHERE = "/home/me/unrelated"
PORT = Port(8000)


def process(pid: int = 2000, command: str = "python server.py", **facts: Any) -> Process:
    """A process of ours, in our project, alone in its session and without a terminal."""
    argv = tuple(shlex.split(command))
    name = argv[0].rsplit("/", 1)[-1][:15]
    plain = Process(pid, 0, pid, name, argv, ME, cwd=PROJECT, session=pid)
    return plain._replace(**facts)


def titled(pid: int, title: str, **facts: Any) -> Process:
    """A process that has changed its title: its whole command line is one word."""
    facts["argv"] = (title,)
    return process(pid, **facts)


def fork(original: Process, pid: int, **facts: Any) -> Process:
    """A copy of a process: forked from it, and no program executed since (os.fork())."""
    return original._replace(pid=pid, start=pid, forked=True, foreground=False)._replace(**facts)


INIT = process(1, "/sbin/init", name="systemd", owner=ROOT, cwd="/")
USER_MANAGER = process(400, "/usr/lib/systemd/systemd --user", cwd=HOME, unit="user@1000.service")
OUR_SHELL = process(800, "-zsh", name="zsh", terminal="pts/1")
OUR_PYTEST = process(900, "python -m pytest", session=800, terminal="pts/1", foreground=True)
THEIR_SHELL = process(600, "-zsh", name="zsh", terminal="pts/2")
US = (OUR_PYTEST, OUR_SHELL, INIT)
THEIR_PYTEST = process(700, "python -m pytest tests/slow", session=600, terminal="pts/2")
