"""The web servers of Python and node, as developers leave them behind."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from stress.support.real_servers import RunningServer, ServerSpec, Trial, generate, parameter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers.processes import Processes
    from stress.support.figures import Figures

GROUP = "real servers"

PYTHON = [sys.executable, "-m"]

# On its way out each of these writes down what a polite stop would have saved.

WSGI = """\
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""

ASGI = """\
import asyncio, os, pathlib

async def until_gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            step = (await receive())["type"]
            told = "saved" if step == "lifespan.shutdown" else "started"
            pathlib.Path(f"{told}-{os.getpid()}").touch()
            await send({"type": f"{step}.complete"})
            if step == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    gone = asyncio.ensure_future(until_gone(receive))
    while scope["path"] == "/stream" and not gone.done():
        await send({"type": "http.response.body", "body": b"tick", "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"hello"})
"""

FLASK = """\
from flask import Flask

app = Flask(__name__)

@app.get("/")
def hello():
    return "hello"
"""

DJANGO = """\
import sys
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

settings.configure(DEBUG=True, ROOT_URLCONF="__main__", SECRET_KEY="-")
urlpatterns = [path("", lambda request: HttpResponse("hello"))]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""

TORNADO = """\
import asyncio, sys
import tornado.netutil, tornado.process, tornado.httpserver, tornado.web

sockets = tornado.netutil.bind_sockets(int(sys.argv[1]), "127.0.0.1")
tornado.process.fork_processes(2)

async def main():
    tornado.httpserver.HTTPServer(tornado.web.Application()).add_sockets(sockets)
    await asyncio.Event().wait()

asyncio.run(main())
"""

TITLE = """\
import http.server, sys
import setproctitle

setproctitle.setproctitle("shop: ready to sell")
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""

NODE = """\
const server = require("http").createServer((request, response) => response.end("hello"));
server.listen($PORT, "127.0.0.1");
"""

POLITE_NODE = f"""{NODE}
process.on("SIGTERM", () => {{
  server.close(() => require("fs").writeFileSync("saved", "saved"));
  server.closeIdleConnections();
}});
"""

PACKAGE = '{"name": "shop", "version": "1.0.0", "scripts": {"dev": "node server.js"}}'


def noted(what: str, count: int) -> Callable[[RunningServer], bool]:
    """Whether so many processes have noted that, at the least."""
    return lambda running: len([*running.folder.glob(f"{what}*")]) >= count


GUNICORN = ServerSpec(
    name="gunicorn",
    command=[*PYTHON, "gunicorn", "--workers=2", "--bind=127.0.0.1:$PORT", "shop:application"],
    files={"shop.py": WSGI},
    modules=["gunicorn"],
    holders=3,
    wipes=find_spec("setproctitle") is not None,  # it uses that where it is there
    check=lambda running: "Shutting down: Master" in running.log,
)

RELOAD = ServerSpec(
    name="uvicorn-reload",
    command=[*PYTHON, "uvicorn", "--port=$PORT", "--reload", "shop:application"],
    files={"shop.py": ASGI},
    modules=["uvicorn"],
    holders=2,
    ready=noted("started", 1),
    check=noted("saved", 1),
)

NODEMON = ServerSpec(
    name="nodemon",
    command=["nodemon", "server.js"],
    files={"server.js": POLITE_NODE},
    programs=["nodemon", "node"],
    launcher="nodemon",
    stays=True,
    check=lambda running: "waiting for" in running.log,
)

NPM = ServerSpec(
    name="npm",
    command=["npm", "run", "dev"],
    files={"package.json": PACKAGE, "server.js": POLITE_NODE},
    env={"npm_config_update_notifier": "false"},
    programs=["npm", "node"],
    check=noted("saved", 1),
)

SPECS = [
    GUNICORN,
    ServerSpec(
        name="uvicorn",
        command=[*PYTHON, "uvicorn", "--port=$PORT", "shop:application"],
        files={"shop.py": ASGI},
        modules=["uvicorn"],
        check=noted("saved", 1),
    ),
    RELOAD,
    ServerSpec(
        name="uvicorn-workers",
        stress=True,
        command=[*PYTHON, "uvicorn", "--port=$PORT", "--workers=2", "shop:application"],
        files={"shop.py": ASGI},
        modules=["uvicorn"],
        holders=3,
        ready=noted("started", 2),
        check=noted("saved", 2),
    ),
    ServerSpec(
        name="uvicorn-stream",
        stress=True,
        command=[*PYTHON, "uvicorn", "--port=$PORT", "--workers=2", "shop:application"],
        files={"shop.py": ASGI},
        modules=["uvicorn"],
        holders=3,
        request="GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ready=noted("started", 2),
        drains=True,
        forced=True,  # the master, which waits for its workers whatever signal it gets
        check=noted("saved", 2),
    ),
    ServerSpec(
        name="flask",
        command=[*PYTHON, "flask", "--app=shop", "run", "--debug", "--port=$PORT"],
        files={"shop.py": FLASK},
        modules=["flask"],
        holders=2,
        ready=lambda running: "Debugger is active" in running.log,
    ),
    ServerSpec(
        name="django",
        command=[sys.executable, "manage.py", "runserver", "$PORT"],
        files={"manage.py": DJANGO},
        modules=["django"],
        launcher="manage",
    ),
    ServerSpec(
        name="django-noreload",
        stress=True,
        command=[sys.executable, "manage.py", "runserver", "--noreload", "$PORT"],
        files={"manage.py": DJANGO},
        modules=["django"],
    ),
    ServerSpec(
        name="hypercorn",
        stress=True,
        command=[*PYTHON, "hypercorn", "--bind=127.0.0.1:$PORT", "--workers=2", "shop:application"],
        files={"shop.py": ASGI},
        modules=["hypercorn"],
        holders=3,
        ready=noted("started", 2),
        # As soon as one worker is done, the master ends the other one where it stands.
        check=noted("saved", 1),
    ),
    ServerSpec(
        name="granian",
        command=[
            *(*PYTHON, "granian", "--interface=asgi", "--workers=2"),
            *("--port=$PORT", "shop:application"),
        ],
        files={"shop.py": ASGI},
        modules=["granian"],
        holders=2,  # who listen; the master has a socket that does not
        ready=noted("started", 2),
        wipes=find_spec("setproctitle") is not None,
        check=noted("saved", 2),
    ),
    ServerSpec(
        name="tornado",
        stress=True,
        command=[sys.executable, "shop.py", "$PORT"],
        files={"shop.py": TORNADO},
        modules=["tornado"],
        holders=3,
    ),
    ServerSpec(
        name="setproctitle",
        stress=True,
        command=[sys.executable, "shop.py", "$PORT"],
        files={"shop.py": TITLE},
        modules=["setproctitle"],
        wipes=True,
    ),
    ServerSpec(
        name="node",
        stress=True,
        command=["node", "server.js"],
        files={"server.js": NODE},
        programs=["node"],
    ),
    ServerSpec(
        name="node-polite",
        command=["node", "server.js"],
        files={"server.js": POLITE_NODE},
        programs=["node"],
        check=noted("saved", 1),
    ),
    NPM,
    NODEMON,
    ServerSpec(
        name="vite",
        command=["vite", "--port=$PORT", "--strictPort"],
        files={"index.html": "<p>hello</p>"},
        programs=["vite", "node"],
    ),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    generate(metafunc, SPECS)


def test_it_is_freed(
    trial: Trial, processes: Processes, project: Path, figures: Figures, *, long: bool
) -> None:
    trial.run(processes, project, figures, neighbour=long and trial.way == "command")


@pytest.mark.parametrize(
    "kept",
    [
        parameter(Trial(GUNICORN, "attended", "library")),
        parameter(Trial(RELOAD, "terminal", "command")),
        parameter(Trial(NPM, "terminal", "plugin")),
        parameter(Trial(NODEMON, "attended", "library")),
    ],
)
def test_it_is_kept_while_it_is_looked_after(
    kept: Trial, processes: Processes, project: Path, figures: Figures
) -> None:
    kept.run(processes, project, figures)
