"""Programs that start others: which look after them, and which only look like it."""

from __future__ import annotations

import pytest

from helpers.builders import process, titled
from portfree._core import programs


@pytest.mark.parametrize(
    "command",
    [
        *("sh -c 'npm run dev'", "-bash", "/bin/zsh", "busybox ash"),
        *("npm run dev", "node /usr/bin/npm run dev", "node /usr/lib/npx-cli.js vite"),
        *("yarn dev", "node /usr/bin/yarn.js dev", "pnpm dev", "npx vite"),
        *("uv run server", "poetry run server", "hatch run server", "python -m pipenv run x"),
        *("make serve", "env A=1 server", "timeout 60 server", "sudo -u me server"),
        *("pixi run dev", "mise run dev", "just dev", "task dev", "cross-env A=1 server", "tsx x"),
        *("dotenv -- server", "node /x/.bin/dotenvx run -- server", "corepack pnpm dev"),
        # With one of these for their first argument.
        *("bun run dev", "bun --bun run dev", "bun x vite", "bunx vite", "deno task dev"),
        *("go run .", "go run ./cmd/shop", "cargo run --release", "dotnet run --project shop"),
        # They start several, and end with these.
        *("node /x/.bin/concurrently npm:dev", "node /x/.bin/npm-run-all -p dev", "run-p dev"),
        *("run-s dev", "python /x/bin/honcho start", "ruby /usr/bin/foreman start"),
    ],
)
def test_wrappers_start_one_command_and_wait_for_it(command: str) -> None:
    assert programs.is_wrapper(process(1, command))


@pytest.mark.parametrize(
    "command",
    [
        *(
            "python shop.py",
            "nodemon server.js",
            "supervisord",
            "pm2",
            "watchexec",
        ),
        *("tmux", "gunicorn app", "uvicorn --reload app", "docker run shop", "pytest"),
        "busybox runsvdir /etc/service",
        *("bun run server.ts", "bun server.ts", "deno run server.ts", "deno serve app.ts"),
        *("go build .", "go test ./...", "cargo watch -x run", "cargo test", "dotnet watch run"),
        *("go", "cargo", "dotnet shop.dll"),
        "shell",  # a name on no list is a launcher, whatever it is like
    ],
)
def test_everybody_else_looks_after_what_it_started(command: str) -> None:
    assert not programs.is_wrapper(process(1, command))


def test_a_wrapper_is_one_by_its_command_line_not_by_the_kernels_name() -> None:
    assert programs.is_wrapper(titled(1, "npm run dev", name="node"))
    assert not programs.is_wrapper(process(1, "supervisord", name="sh"))


@pytest.mark.parametrize(
    "command",
    ["concurrently dev", "npm-run-all dev", "run-p dev", "run-s dev", "honcho start", "foreman x"],
)
def test_who_starts_several_commands_looks_after_them_at_a_terminal(command: str) -> None:
    assert not programs.is_wrapper(process(1, command, terminal="pts/1"))
    assert programs.is_wrapper(process(1, f"sh -c '{command}'", terminal="pts/1"))


@pytest.mark.parametrize(
    ("command", "is_shell"),
    [
        ("dash x.sh", True),
        ("-fish", True),
        ("busybox sh", True),
        ("npm run", False),
        ("x.sh", False),
    ],
)
def test_shells(command: str, *, is_shell: bool) -> None:
    assert programs.is_shell(process(1, command)) is is_shell


@pytest.mark.parametrize(
    ("command", "interactive"),
    [
        *((command, True) for command in ("bash", "-zsh", "zsh -l", "bash -i", "fish --login")),
        *((command, True) for command in ("bash --norc", "sh -i -l", "/usr/bin/dash")),
        *((command, False) for command in ("sh -c server", "bash -ec server", "bash -lic server")),
        *((command, False) for command in ("bash start.sh", "bash -e start.sh", "busybox sh -c x")),
        *((command, False) for command in ("python", "script", "node", "vim")),
    ],
)
def test_shells_that_read_their_commands_from_a_terminal(
    command: str, *, interactive: bool
) -> None:
    assert programs.is_interactive_shell(process(1, command)) is interactive


@pytest.mark.parametrize("command", ["script -qc server /dev/null", "expect x.exp", "unbuffer x"])
def test_who_makes_a_terminal_at_which_nobody_sits(command: str) -> None:
    assert programs.is_pty_maker(process(1, command))
    assert not programs.is_wrapper(process(1, command))


@pytest.mark.parametrize(
    "command", ["python script.sh", "sh script x", "xterm", "tmux", "ssh -t x"]
)
def test_others_make_none(command: str) -> None:
    assert not programs.is_pty_maker(process(1, command))


@pytest.mark.parametrize(
    ("command", "kind", "advice"),
    [
        ("pm2-runtime app.js", "pm2", "pm2 stop shop (pm2 list names them)"),
        ("node /x/bin/pm2-docker app.js", "pm2", "pm2 stop shop (pm2 list names them)"),
        (
            "/usr/bin/node /usr/lib/node_modules/forever/bin/monitor server.js",
            "forever",
            "forever stop shop (forever list names them)",
        ),
        (
            "/usr/bin/python3 /usr/bin/supervisord -c x",
            "supervisord",
            "supervisorctl stop shop (supervisorctl status names them)",
        ),
        ("circusd x.ini", "circusd", "circusctl stop shop (circusctl status names them)"),
        ("overmind start", "overmind", "overmind stop shop (overmind ps names them)"),
        (
            "process-compose up",
            "process-compose",
            "process-compose process stop shop (process-compose list names them)",
        ),
        ("runsv web", "runsv", "sv down web"),
        ("runsv", "runsv", "sv down NAME"),
        ("s6-supervise /run/service/web", "s6-supervise", "s6-svc -d /run/service/web"),
        ("monit -c x", "monit", "monit stop shop (monit summary names them)"),
        ("ruby /usr/bin/god -c x", "god", "god stop shop (god status names them)"),
    ],
)
def test_process_managers_say_how_to_stop_what_they_look_after(
    command: str, kind: str, advice: str
) -> None:
    manager = process(9, command)

    assert programs.process_manager(manager) == kind
    assert programs.manager_advice(manager, process(10, "python shop.py")) == advice
    assert programs.manager_advice(manager, None) == advice.replace(" shop ", " NAME ")


def test_a_process_manager_on_windows() -> None:
    monitor = r"C:\npm\node_modules\forever\bin\monitor"

    assert programs.process_manager(process(9, argv=(r"C:\node.exe", monitor, "x.js"))) == "forever"


@pytest.mark.parametrize("command", ["python", "node -e 'serve()'", "python -c 'serve()'"])
def test_what_an_interpreter_runs_without_a_name_has_no_name_in_advice(command: str) -> None:
    advice = programs.manager_advice(process(9, "pm2"), process(10, command))

    assert advice == "pm2 stop NAME (pm2 list names them)"


@pytest.mark.parametrize(
    "command",
    [
        *("nodemon server.js", "systemd --user", "tmux", "monitor server.js", "python monitor.py"),
        *("supervisorctl status", "npm run pm2", "vim /x/forever/bin/monitor-notes", "gunicorn x"),
        "node server.js --watch /x/forever/bin/monitor",
    ],
)
def test_others_are_no_process_managers(command: str) -> None:
    assert programs.process_manager(process(9, command)) == ""


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("systemd", "/sbin/init splash"),
        ("systemd", "/usr/lib/systemd/systemd --user"),
        ("launchd", "/sbin/launchd"),
        ("tini", "/usr/bin/tini -- sh"),
        ("dumb-init", "dumb-init sh"),
        ("docker-init", "/sbin/docker-init -- sh"),
        ("catatonit", "/catatonit -P"),
        ("s6-svscan", "s6-svscan /run/service"),
        ("init", "/init"),
        # WSL: the command line stays /init, or cannot be read.
        ("SessionLeader", "/init"),
        ("Relay(9)", "/init"),
    ],
)
def test_reapers_adopt_orphans(name: str, command: str) -> None:
    assert programs.is_listed_reaper(process(9, command, name=name))
    assert programs.is_listed_reaper(process(9, name=name, argv=()))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("python3", "python3 init.py"),
        ("init.py", "/usr/bin/python3 ./init.py"),  # by its #! line
        ("init", "/bin/sh /init"),
        ("node", "node systemd.js"),
        ("s6-supervise", "s6-supervise web"),
        ("runsvdir", "runsvdir /etc/service"),
        ("containerd-shim", "containerd-shim-runc-v2 -id 1"),
        ("sleep", "sleep infinity"),
        ("Relay", "Relay"),
    ],
)
def test_what_only_sounds_like_a_reaper_looks_after_what_it_started(
    name: str, command: str
) -> None:
    assert not programs.is_listed_reaper(process(9, command, name=name))


@pytest.mark.parametrize(
    ("name", "command", "systemd"),
    [
        ("systemd", "/sbin/init splash", True),
        ("systemd", "/usr/lib/systemd/systemd --user", True),
        ("init", "/sbin/init", False),
        ("python", "python systemd.py", False),
    ],
)
def test_systemd(name: str, command: str, *, systemd: bool) -> None:
    assert programs.is_systemd(process(1, command, name=name)) is systemd


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("tmux: server", "tmux new -s work"),
        ("screen", "SCREEN -S work"),
        ("zellij", "zellij --server /run/zellij"),
        ("emacs", "emacs --daemon"),
        ("nvim", "nvim --headless"),
        ("gnome-terminal-", "/usr/libexec/gnome-terminal-server"),
        ("python", "python /usr/bin/jupyter-lab"),
        ("python", "python -m jupyterlab"),
        ("code", "/usr/share/code/code"),
        ("xterm", "xterm -e bash"),
        ("kitty", "/usr/bin/kitty"),
        ("java", "/opt/pycharm/bin/pycharm"),
        ("mosh-server", "mosh-server new"),
        ("node", "/home/me/.vscode-server/bin/1/node server-main.js"),
    ],
)
def test_multiplexers_outlive_who_started_them(name: str, command: str) -> None:
    assert programs.is_multiplexer(process(9, command, name=name))


@pytest.mark.parametrize(
    "command", ["python server.py", "zsh", "node vite", "sshd", "python code.py", "node screen.js"]
)
def test_others_do_not(command: str) -> None:
    assert not programs.is_multiplexer(process(9, command))
