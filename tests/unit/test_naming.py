"""What a process is called."""

from __future__ import annotations

import pytest

from helpers.builders import process, titled
from portfree._core import naming


@pytest.mark.parametrize(
    ("command", "program"),
    [
        # A program of its own.
        ("/usr/sbin/nginx -g 'daemon off;'", "nginx"),
        (r"'C:\Program Files\nodejs\node.exe' server.js", "server"),
        (r"'C:\Program Files\PostgreSQL\bin\postgres.exe'", "postgres"),
        ("-bash", "bash"),
        ("./manage.py test", "manage"),
        # What an interpreter runs.
        ("python -m pytest tests", "pytest"),
        ("python3.13t -m pytest", "pytest"),
        ("/opt/venv/bin/python /opt/venv/bin/pytest -x", "pytest"),
        ("python -mpytest", "pytest"),
        ("python -um pytest", "pytest"),
        ("python -W error -X dev -m pytest", "pytest"),
        ("python -m nox.__main__", "nox"),
        ("python /usr/lib/python3/dist-packages/tox/__main__.py", "tox"),
        ("pythonw.exe server.py", "server"),
        ("node /usr/bin/npm run dev", "npm"),
        ("node --require ./setup.js /usr/lib/node_modules/npm/bin/npm-cli.js start", "npm-cli"),
        ("node --env-file .env node_modules/.bin/jest", "jest"),
        ("java -Xmx1g -jar /opt/agent.jar -secret s", "agent.jar"),
        ("java -cp agent.jar hudson.remoting.jnlp.Main", "hudson.remoting.jnlp.main"),
        ("busybox sh -c true", "sh"),
        ("busybox runsvdir /etc/service", "runsvdir"),
        ("node node_modules/.bin/karma start", "karma"),
        ("node node_modules/.bin/playwright run-server", "playwright"),
        ("bun run server.ts", "server.ts"),
        ("bun server.ts", "server.ts"),
        ("deno run -A ./server.ts", "server.ts"),
        ("deno run jsr:@std/http/file-server", "file-server"),
        # An interpreter that runs nothing with a name.
        ("python", "python"),
        ("python -", "python"),
        ("python -c 'import os'", "python"),
        ("python -uc 'exec(\"/bin/sh\")'", "python"),
        ("python -m", "python"),
        ("node -e 'serve()'", "node"),
        ("node --inspect", "node"),
        ("bun run dev", "bun"),
        ("bun --bun run dev", "bun"),
        ("deno task dev", "deno"),
        ("python -c 'import sys;exec(eval(sys.stdin.readline()))'", "python"),  # execnet
        ("busybox", "busybox"),
    ],
)
def test_the_program_is_what_the_command_line_runs(command: str, program: str) -> None:
    assert naming.program(process(1, command)) == program


@pytest.mark.parametrize(
    ("title", "program"),
    [
        ("npm run dev", "npm"),
        ("nginx: master process /usr/sbin/nginx", "nginx"),
        ("sshd: me@pts/0", "sshd"),
        ("gunicorn: master [shop:app]", "gunicorn"),
        ("node (vitest 1)", "vitest"),
        ("[pytest-xdist running] tests/test_a.py::test_b", "pytest-xdist"),
        ("PM2 v5.3.0: God Daemon (/home/me/.pm2)", "pm2"),
        ("ssh: /home/me/.ssh/cm [mux]", "ssh"),
        ("foreman: master", "foreman"),
        # Not a title, but the path of a program.
        ("/Applications/My App/shop", "shop"),
        (r"C:\Program Files\Shop\shop.exe", "shop"),
        ("()", "()"),
    ],
)
def test_a_title_starts_with_the_program(title: str, program: str) -> None:
    assert naming.program(titled(1, title, name="whatever")) == program


def test_what_a_shorter_title_leaves_of_the_old_command_line_does_not_count() -> None:
    assert naming.program(process(1, argv=("npm run dev", "", ""))) == "npm"


def test_without_a_command_line_the_kernels_name_has_to_do() -> None:
    assert naming.program(process(1, argv=(), name="Relay(9)")) == "relay(9)"


def test_a_process_goes_by_all_its_names() -> None:
    worker = process(1, "/usr/bin/python3.11 /opt/bin/gunicorn app", name="Main Thread")

    assert naming.names(worker) == {"gunicorn", "python3.11", "main thread"}
