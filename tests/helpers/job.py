"""A job of GitHub Actions, and the step of the action in it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from helpers.commands import until_it_serves
from helpers.processes import Processes, tcp
from helpers.reports import BORN_IN

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".github" / "action.sh"


def mark(processes: Processes) -> dict[str, str]:
    """What a server of a test has in its environment, when the test run has been killed."""
    return {"PYTEST_CURRENT_TEST": BORN_IN, "PORTFREE_RUN_ID": processes.run_id(alive=False)}


class Step(NamedTuple):
    """What a step has done."""

    code: int
    log: str
    outputs: dict[str, str]
    page: str

    @property
    def commands(self) -> list[str]:
        """The lines that the runner takes for commands (ActionCommand.cs)."""
        return [
            line
            for line in self.log.splitlines()
            if re.match(r"\s*::[\w-]+(?: [^:]*)?::", line) or re.search(r"##\[[\w-]+.*?\]", line)
        ]

    @property
    def report(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(Path(self.outputs["report"]).read_text())


class Job:
    """Runs steps, one after the other, as the runner would."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self.temp, self.workspace = folder / "runner-temp", folder / "workspace"
        self.temp.mkdir()
        (self.workspace / ".git").mkdir(parents=True)

    def start(
        self,
        env: Mapping[str, str] | None = None,
        command: list[str] | None = None,
        /,
        **inputs: str,
    ) -> subprocess.Popen[bytes]:
        for name in ("output", "summary"):
            (self.temp / name).write_text("")
        files = {
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_OUTPUT": str(self.temp / "output"),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
            "GITHUB_ACTION_PATH": str(ROOT),
        }
        given = {f"PORTFREE_INPUT_{name.upper()}": value for name, value in inputs.items()}
        with (self.temp / "log").open("wb") as log:
            return self._processes.popen(
                command or [sys.executable, "-m", "portfree._cli.action"],
                {**files, **given, **(env or {})},
                cwd=self.workspace,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return (self.temp / "log").read_text()

    def end(self, process: subprocess.Popen[bytes]) -> Step:
        code = process.wait(60)
        output, page = ((self.temp / name).read_text() for name in ("output", "summary"))
        return Step(code, self.log(), outputs(output), page)

    def step(self, env: Mapping[str, str] | None = None, /, **inputs: str) -> Step:
        return self.end(self.start(env, **inputs))

    def set_up(self, env: Mapping[str, str] | None = None, /, **inputs: str) -> Step:
        """A step as action.yml starts it."""
        return self.end(self.start(env, ["bash", str(SCRIPT)], **inputs))


def outputs(text: str) -> dict[str, str]:
    """Read the file of outputs as the runner does (FileCommandManager.cs)."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, mark = line.split("<<")
        value = []
        while (line := next(lines)) != mark:
            value.append(line)
        found[name] = "\n".join(value)
    return found


def leaking(port: int, then: str = "") -> str:
    """A command that leaves a server behind, and waits until it is there."""
    server = f"setsid {shlex.join(tcp(port))} >/dev/null 2>&1 </dev/null &"
    return f"{server}\n{until_it_serves(port)}\n{then}"
