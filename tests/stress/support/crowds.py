"""Many uses of portfree at the same moment: calls, or guarded runs.

Run as a program: ``python crowds.py MEMBER…``, each a JSON object that names its ``kind``:

===========  =====================================================================================
kind         what it does
===========  =====================================================================================
``process``  calls `free_ports`, in a process of its own
``threads``  the same in as many threads of one process as it says
``command``  the same as the command ``portfree``
``guard``    works in ``with free_ports``
``run``      works under ``portfree run``
``work``     the work itself: starts a server on each port, uses it for a while, and leaves it
===========  =====================================================================================

All are forked and then wait for one starting gun, so that they are really there at once. Standard
output gets a JSON list: for each call and run who it was, how long it took, and the report as
``portfree --json`` prints it, or what went wrong instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

# Loaded before the fork: else most of the crowd still loads when the first ones are done.
from portfree import PortsBusyError, free_ports
from portfree._core import free as rounds
from portfree._output.json import as_object
from portfree._system import current

LATE = (rounds,)  # what free_ports() loads when a port is held

SERVERS = Path(__file__).with_name("restless_servers.py")

Answer = dict[str, Any]


# Calls


def call(member: dict[str, Any]) -> Answer:
    started = time.monotonic()
    try:
        said: Answer = {"report": as_object(free_ports(*member["ports"], **member["options"]))}
    except BaseException:  # noqa: BLE001 - whatever it was, the test must see it
        said = {"error": traceback.format_exc()}
    return {**said, "seconds": time.monotonic() - started}


def calls(member: dict[str, Any]) -> list[Answer]:
    """The same call in several threads of this process."""
    answers: list[Answer] = []
    barrier = threading.Barrier(member["threads"])

    def one() -> None:
        barrier.wait()
        answers.append(call(member))

    threads = [threading.Thread(target=one) for _ in range(member["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def portfree(*words: str, member: dict[str, Any]) -> list[str]:
    """The command line that asks for the same."""
    options = [f"--{name.replace('_', '-')}={said}" for name, said in member["options"].items()]
    return [sys.executable, "-m", "portfree", *words, *options, *map(str, member["ports"])]


def command(member: dict[str, Any]) -> Answer:
    started = time.monotonic()
    done = subprocess.run(portfree("--json", member=member), capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode not in (0, 1) or not done.stdout:
        return {"error": f"{done.returncode}: {done.stderr}", "seconds": seconds}
    return {"report": json.loads(done.stdout), "seconds": seconds}


# Runs


def work(member: dict[str, Any]) -> Answer:
    """Start the servers, use them for a while, and leave them there.

    ``up``: whether they came up; ``lived``: whether they were still there when the work was done.
    """
    servers = [_start(port, f"{member['records']}-{port}") for port in member["ports"]]
    ready = [_is_ready(reader) for _, reader in servers]
    up = all(ready)
    time.sleep(member["seconds"])
    return {"up": up, "lived": up and all(server.poll() is None for server, _ in servers)}


def _start(port: int, record: str) -> tuple[subprocess.Popen[bytes], int]:
    reader, writer = os.pipe()
    server = subprocess.Popen(
        [sys.executable, "-S", SERVERS, "--tcp", f"127.0.0.1:{port}", "--record", record],
        env={**os.environ, "STAGE_READY": str(writer)},
        stderr=subprocess.DEVNULL,
        pass_fds=[writer],
    )
    os.close(writer)
    return server, reader


def _is_ready(reader: int) -> bool:
    with open(reader) as file:
        return file.readline() != ""  # if another process has the port, it ends without a word


def guard(member: dict[str, Any]) -> Answer:
    done: Answer = {"up": False, "lived": False}
    opened = None
    try:
        with free_ports(*member["ports"], on_busy="fail", **member["options"]) as opened:
            done = work(member)
    except PortsBusyError as error:
        if opened is None:
            return {**done, "refused": True, "before": as_object(error.report), "after": None}
    assert opened is not None
    assert opened.after is not None
    before, after = as_object(opened.before), as_object(opened.after)
    return {**done, "refused": False, "before": before, "after": after}


def run(member: dict[str, Any]) -> Answer:
    inner = [sys.executable, __file__, json.dumps({**member, "kind": "work"})]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        process = subprocess.Popen(
            [*portfree("run", f"--report={report}", member=member), "--", *inner],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        worked, errors = process.communicate()
        told = json.loads(report.read_text()) if report.exists() else {"error": errors}
    done = json.loads(worked)[0] if worked else {"up": False, "lived": False}
    return {**done, **told, "refused": not worked, "pid": process.pid}


KINDS = {"process": call, "command": command, "work": work, "guard": guard, "run": run}


def answer(member: dict[str, Any]) -> list[Answer]:
    try:
        if member["kind"] == "threads":
            return calls(member)
        return [KINDS[member["kind"]](member)]
    except BaseException:  # noqa: BLE001 - whatever it was, the test must see it
        return [{"error": traceback.format_exc()}]


def main() -> None:
    current()  # loads the backend
    gun, trigger = os.pipe()
    members: list[tuple[int, str, int]] = []
    for member in map(json.loads, sys.argv[1:]):
        reader, writer = os.pipe()
        if pid := os.fork():
            os.close(writer)
            members.append((pid, member["kind"], reader))
            continue
        os.close(trigger)
        os.read(gun, 1)
        with open(writer, "w") as file:  # noqa: PTH123 - a descriptor
            json.dump(answer(member), file)
        os._exit(0)
    os.close(trigger)
    answers: list[Answer] = []
    for pid, kind, reader in members:
        with open(reader) as file:  # noqa: PTH123 - a descriptor
            text = file.read()
        os.waitpid(pid, 0)
        said = json.loads(text) if text else [{"error": "it ended without an answer"}]
        answers += [{"kind": kind, "pid": pid, **each} for each in said]
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
