"""A project in which a command runs, as its developer would run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partialmethod
from pathlib import Path
from typing import NamedTuple

from helpers.processes import HERE, LAUNCH, PATIENCE, SERVERS, Processes, Started, wait_until

TEST = "tests/test_api.py::test_search (setup)"
"""The test that a server was started in, for a server that no test has started."""

PASSES = "def test_it():\n    pass\n"

IMPORTS = """\
import os, pathlib, signal, socket, subprocess, sys, time
import careless, pytest
"""

# What pip says where it cannot reach an index.
NO_INDEX = (
    *("No matching distribution found", "NewConnectionError", "Could not fetch URL"),
    "No module named pip",
)


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    """Its output; with that of stderr in it, unless that was to be kept apart."""
    err: str = ""

    def line(self, text: str) -> str:
        """The one line of the output that has this text."""
        lines = [line for line in self.out.splitlines() if text in line]
        assert len(lines) == 1, f"{text!r} is in {len(lines)} lines of:\n{self.out}"
        return lines[0]

    @property
    def header(self) -> str:
        """Our line of pytest's header."""
        (line,) = (line for line in self.out.splitlines() if line.startswith("portfree: "))
        return line

    @property
    def section(self) -> list[str]:
        """The lines of our section at the end of a pytest session; none if there is none."""
        found = re.search(r"^=+ portfree =+\n(.*?)^(?:=|!)", self.out, re.DOTALL | re.MULTILINE)
        return found[1].splitlines() if found else []


class Running:
    """A command at work, in a session of its own, as a terminal would start it."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path | None) -> None:
        self.process, self._out, self._err = process, out, err

    @property
    def output(self) -> Ended:
        """What it has said until now; the code means nothing yet."""
        err = self._err.read_text(errors="replace") if self._err else ""
        return Ended(-1, self._out.read_text(errors="replace"), err)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has said this, so many times."""

        def said() -> int:
            return sum(each.count(text) for each in self.output[1:])

        wait_until(lambda: said() >= times or self.process.poll() is not None, f"{text!r} is said")
        assert said() >= times, self.output

    def signal(self, number: signal.Signals = signal.SIGINT) -> None:
        """Signal everything in the foreground, as Ctrl-C does."""
        os.killpg(self.process.pid, number)

    def ended(self) -> Ended:
        code = self.process.wait(PATIENCE)
        return self.output._replace(code=code)

    def kill(self) -> None:
        """Kill it, and nothing that it has started."""
        self.process.kill()
        self.ended()


class Project:
    """A folder in which commands run; whatever they start is cleared away with the processes."""

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        variables: Mapping[str, str] | None = None,
        *,
        apart: bool = False,
    ) -> None:
        """*variables*: more of them for every command. *apart*: keep stderr by itself."""
        self.processes = processes
        self.folder = folder
        self.port = processes.free_port()
        self.other = processes.free_port()
        self.variables = {
            # The programs are those beside our Python.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # Their output comes when they say it, and what all of them load is compiled once.
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "",
            **(variables or {}),
        }
        self.apart = apart
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, text: str, **values: object) -> None:
        """Write a file; ``$NAME`` is replaced by the value of that name, ``$PORT`` by our port."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for key, value in {"PORT": self.port, "OTHER": self.other, **values}.items():
            text = text.replace(f"${key}", str(value))
        path.write_text(textwrap.dedent(text))

    def write_careless(self, name: str) -> None:
        """Write the module, or program, that starts servers and leaves them behind."""
        self.write(name, (HERE / "careless.py").read_text(), SERVERS=SERVERS, LAUNCH=LAUNCH)

    def orphan(self, command: Sequence[str], **env: str) -> Started:
        """A server of this project that an earlier run has left behind."""
        return self.processes.orphan(command, cwd=self.folder, env=env)

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> Running:
        # To files: with pipes we would wait for what is left behind, too.
        self._count += 1
        out = self.processes.folder / f"out-{self._count}"
        err = out.with_name(f"err-{self._count}") if self.apart else None
        with out.open("wb") as output, (err or out).open("wb") as errors:
            process = self.processes.popen(
                command,
                {**self.variables, **(env or {})},
                cwd=self.folder,
                stdout=output,
                stderr=errors if self.apart else subprocess.STDOUT,
                start_new_session=True,
            )
        return Running(process, out, err)

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> Ended:
        return self.start(*command, env=env).ended()

    # The same for a module of ours, such as pytest, with these arguments.
    start_module = partialmethod(start, sys.executable, "-m")
    module = partialmethod(run, sys.executable, "-m")
    pytest = partialmethod(run, sys.executable, "-m", "pytest")

    def tests(self, text: str, **values: object) -> None:
        """Write tests/test_it.py, which need not import what most of them need."""
        self.write("tests/test_it.py", IMPORTS + textwrap.dedent(text), **values)

    def guard(self, *ports: int, **settings: object) -> None:
        """Write a pytest.ini that has these ports freed: by default ours."""
        lines = ["[pytest]", f"free_ports = {' '.join(map(str, ports or (self.port,)))}"]
        lines += [f"free_ports_{key} = {value}" for key, value in settings.items()]
        self.write("pytest.ini", "\n".join([*lines, ""]))

    def done(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        """What a command says that must succeed."""
        ended = self.run(*command, env=env)
        assert ended.code == 0, ended.out + ended.err
        return ended.out
