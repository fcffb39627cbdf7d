"""Real services: what tests talk to, and what saves its data if it may."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.processes import NOBODY, needs_program, needs_root, only, wait_until
from stress.support.real_servers import (
    RunningServer,
    ServerSpec,
    Trial,
    generate,
    holders,
    parameter,
)

if TYPE_CHECKING:
    from helpers.processes import Processes
    from stress.support.figures import Figures

GROUP = "real servers"

NGINX_CONF = """\
worker_processes 2;
pid nginx.pid;
error_log error.log notice;
events {}
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {
    listen 127.0.0.1:$PORT;
    return 200 hello;
  }
}
"""

NGINX = ServerSpec(
    name="nginx",
    command=["nginx", "-p", "$FOLDER", "-c", "nginx.conf", "-e", "error.log"],
    files={"nginx.conf": NGINX_CONF},
    programs=["nginx"],
    holders=3,
    wipes=True,
    check=lambda running: not (running.folder / "nginx.pid").exists(),
)


def _keeps_the_basket(running: RunningServer) -> bool:
    """Whether Redis has the client's data when it is started again."""
    port = running.processes.free_port()
    again = ["redis-server", "redis.conf", "--port", str(port)]
    running.processes.orphan(again, cwd=running.folder, listening=port)
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"GET basket\r\n")
        return b"pear" in client.recv(100)


REDIS = ServerSpec(
    name="redis",
    command=["redis-server", "redis.conf"],
    files={"redis.conf": "bind 127.0.0.1\nport $PORT\nsave 3600 1\ndir $FOLDER\n"},
    programs=["redis-server"],
    wipes=True,
    request="SET basket pear\r\n",
    check=_keeps_the_basket,
)


def _script(name: str) -> str:
    """A program that is installed beside portfree."""
    return str(Path(sys.executable).with_name(name))


def _start_a_kernel(running: RunningServer) -> bool:
    with closing(HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
        connection.request("POST", "/api/kernels", "{}")
        return connection.getresponse().status == 201


JUPYTER = ServerSpec(
    name="jupyter",
    stress=True,
    command=[
        *(_script("jupyter-server"), "--port=$PORT", "--no-browser", "--allow-root"),
        *("--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"),
    ],
    env={"IPYTHONDIR": "$FOLDER/ipython"},
    programs=[_script("jupyter-server")],
    modules=["ipykernel"],
    ready=_start_a_kernel,
    scope="mine",  # it is meant to outlive who starts it
    rules={("orphan", "mine"): "mine", ("test", "mine"): "mine"},
    check=lambda running: "Shutting down 1 kernel" in running.log,
)

WEB = f"{sys.executable} -m http.server --bind 127.0.0.1 $PORT"

HONCHO = ServerSpec(
    name="honcho",
    stress=True,
    command=[_script("honcho"), "start"],
    files={"Procfile": f"web: {WEB}\n"},
    programs=[_script("honcho")],
)

SUPERVISOR_CONF = f"""\
[supervisord]
logfile=supervisord.log
pidfile=supervisord.pid

[program:web]
command={WEB}
autorestart=true
"""

SUPERVISORD = ServerSpec(
    name="supervisord",
    command=[_script("supervisord"), "-c", "supervisord.conf"],
    files={"supervisord.conf": SUPERVISOR_CONF},
    programs=[_script("supervisord")],
    launcher="supervisord",
    rules={("orphan", "orphans"): "service", ("orphan", "mine"): "service"},
    ready=lambda running: "entered RUNNING state" in running.read("supervisord.log"),
    check=lambda running: "received SIGTERM" in running.read("supervisord.log"),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    generate(metafunc, [NGINX, JUPYTER, REDIS, HONCHO, SUPERVISORD])


def test_it_is_freed(trial: Trial, processes: Processes, project: Path, figures: Figures) -> None:
    trial.run(processes, project, figures)


@needs_program(_script("supervisord"))
def test_a_supervisor_that_is_looked_after_is_named(
    processes: Processes, project: Path, figures: Figures
) -> None:
    foreground = replace(SUPERVISORD, command=[*SUPERVISORD.command, "--nodaemon"])
    running = RunningServer(foreground, "attended", processes, project / "server")
    (supervisor,) = running.ancestors
    who = f"supervisord (pid {supervisor.pid})"

    report = processes.call(running.port, cwd=project).report()
    figures.trial(report.seconds, wrong_stops=sum(not each.alive for each in running.family))
    (found,) = only(report).holders
    assert found.verdict.rule == "service"
    assert found.verdict.reason == f"{who} looks after it, and would start it again"
    assert "supervisorctl stop " in found.verdict.instead
    assert all(each.alive for each in running.family)

    report = processes.call(running.port, cwd=project, scope="mine").report()
    figures.trial(
        report.seconds,
        wrong_stops=not supervisor.alive,
        false_reports=only(report).status != "busy",
    )
    assert only(report).status == "busy"
    assert supervisor.alive


# PostgreSQL, which root may not run


def _postgres() -> str:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian has it
    return str(found[-1]) if found else str(Path(shutil.which("postgres") or "postgres").parent)


_BIN = Path(_postgres())
_AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
_AS_OTHER = _AS_NOBODY if os.geteuid() == 0 else []
_WELCOME = b"user\0postgres\0database\0postgres\0\0"
_STARTUP = struct.pack("!ii", 8 + len(_WELCOME), 3 << 16) + _WELCOME


def _make_cluster(running: RunningServer) -> None:
    if _AS_OTHER:
        os.chown(running.folder, NOBODY, NOBODY)
    initdb = [str(_BIN / "initdb"), "--no-sync", "--auth=trust", "--username=postgres"]
    done = subprocess.run(
        [*_AS_OTHER, *initdb, f"--pgdata={running.folder}/data"],
        cwd=running.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def _was_shut_down(running: RunningServer) -> bool:
    """Whether the cluster has nothing to recover when it is started again."""
    port = running.processes.free_port()
    command = [running.filled(word.replace("$PORT", str(port))) for word in POSTGRES.command]
    again = running.processes.orphan(command, cwd=running.folder, listening=port)
    log = again.log
    ready = "ready to accept connections"
    wait_until(lambda: ready in log.read_text(), "PostgreSQL is up again")
    said = log.read_text()
    assert "not properly shut down" not in said
    return "database system was shut down at" in said


POSTGRES = ServerSpec(
    name="postgres",
    command=[
        *(*_AS_OTHER, str(_BIN / "postgres"), "-D", "$FOLDER/data", "-p", "$PORT"),
        *("-k", "$FOLDER", "-c", "listen_addresses=127.0.0.1"),
    ],
    programs=[str(_BIN / "postgres"), str(_BIN / "initdb"), *_AS_OTHER[:1]],
    prepare=_make_cluster,
    ready=lambda running: "ready to accept connections" in running.log,
    request=_STARTUP.decode(),
    scope="any",
    check=_was_shut_down,
)

OTHERS_POSTGRES = replace(POSTGRES, scope="orphans", rules={("orphan", "orphans"): "other-user"})


@pytest.mark.parametrize("freed", [parameter(Trial(POSTGRES, "orphan", "command"))])
def test_postgres_has_nothing_to_recover(
    open_project: Path, processes: Processes, freed: Trial, figures: Figures
) -> None:
    running = freed.run(processes, open_project, figures)

    assert "received smart shutdown request" in running.log
    assert "received fast shutdown request" in running.log  # the smart one waits for the client


@needs_root
@pytest.mark.parametrize("kept", [parameter(Trial(OTHERS_POSTGRES, "orphan", "library"))])
def test_the_postgres_of_another_user_is_kept_from_root_too(
    open_project: Path, processes: Processes, kept: Trial, figures: Figures
) -> None:
    running = kept.run(processes, open_project, figures)

    report = processes.call(running.port, cwd=open_project, uid=NOBODY).report()
    figures.trial(report.seconds, false_reports=bool(holders(running.port)) == only(report).ok)
    assert only(report).status == "freed"
    assert [each.verdict.rule for each in only(report).holders] == ["orphan"]
    assert _was_shut_down(running)
