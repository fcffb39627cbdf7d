"""Programs that run tests or belong to the system, and what only looks like them."""

from __future__ import annotations

import pytest

from helpers.builders import process, titled
from portfree._core import programs


@pytest.mark.parametrize(
    "command",
    [
        *("pytest", "py.test", "python -m pytest", "python -mpytest", "nox -s tests", "tox -p"),
        *(
            "python -m unittest discover",
            "portfree run 8000 -- make",
            "node node_modules/.bin/jest",
        ),
        *("python manage.py test", "django-admin test", "go test ./...", "cargo test"),
        *("coverage run -m pytest", "python -m coverage run -m pytest", "coverage run manage.py x"),
        *("python /usr/bin/coverage run /usr/bin/pytest",),
        *("python -m debugpy --listen 5678 -m pytest", "python -m cProfile -m nox"),
        *("python /opt/pycharm/helpers/pycharm/_jb_pytest_runner.py --path tests",),
        *("trial shop", "python -m stestr run", "node node_modules/.bin/karma start", "bun test"),
        *("mix test", "deno test", "dotnet test", "node /x/.bin/playwright test", "rake"),
        *(
            "python -m portfree run 8000 -- make",
            "portfree run -- make",
            "python -m portfree._cli.action",
        ),
    ],
)
def test_test_runners(command: str) -> None:
    assert programs.is_test_runner(process(9, command))


@pytest.mark.parametrize(
    ("command", "serves"),
    [
        ("node node_modules/.bin/karma start", True),
        ("karma", True),
        ("vitest --ui", False),
        ("playwright run-server", False),
        ("python server.py karma", False),
    ],
)
def test_runners_that_are_servers_too(command: str, *, serves: bool) -> None:
    assert programs.serves(process(9, command)) is serves


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("portfree run 8000 -- pytest", True),
        ("python -m portfree run -- pytest", True),
        ("/x/bin/python /x/bin/portfree run -- pytest", True),
        ("python -m portfree._cli.action after", True),
        ("portfree 8000", False),
        ("portfree sweep", False),
        ("portfree", False),
        ("npm run portfree", False),
        ("run portfree", False),
    ],
)
def test_who_runs_commands_and_adopts_what_they_leave(command: str, *, runs: bool) -> None:
    assert programs.runs_commands(process(9, command)) is runs


@pytest.mark.parametrize(
    ("command", "is_pytest"), [("python -m pytest", True), ("py.test", True), ("nox", False)]
)
def test_pytest(command: str, *, is_pytest: bool) -> None:
    assert programs.is_pytest(process(9, command)) is is_pytest


def test_a_test_runner_by_its_title() -> None:
    assert programs.is_test_runner(titled(9, "node (vitest)", name="node"))


def test_a_worker_of_xdist() -> None:
    for title in ("[pytest-xdist running] tests/test_a.py::test", "[pytest-xdist idle]"):
        assert programs.is_xdist_worker(titled(9, title, name=title[:15]))
    assert programs.is_xdist_worker(
        process(9, "python -u -c 'import sys;exec(eval(sys.stdin.readline()))'")
    )


@pytest.mark.parametrize("command", ["python -c 'exec(eval(sys.argv[1]))'", "pytest -n 2"])
def test_no_worker_of_xdist(command: str) -> None:
    assert not programs.is_xdist_worker(process(9, command))


@pytest.mark.parametrize(
    "command",
    [
        *("python server.py pytest", "python manage.py runserver", "coverage report", "go run ."),
        *("uvicorn tests.app:app", "grep pytest", "python -m http.server", "vim test_pytest.py"),
        *("git commit -m pytest", "cargo run"),
        *("portfree 8000", "portfree sweep", "playwright run-server", "python -m portfree 8000"),
        # A worker of pytest-xdist descends from one, and looks like none.
        "python -c 'import sys;exec(eval(sys.stdin.readline()))'",
    ],
)
def test_whoever_merely_mentions_tests_is_no_runner(command: str) -> None:
    assert not programs.is_test_runner(process(9, command))


@pytest.mark.parametrize(
    ("command", "idle"),
    [
        ("/actions-runner/bin/Runner.Worker spawnclient 1 2", False),
        ("/actions-runner/bin/Runner.Listener run", True),
        (r"C:\agent\bin\Agent.Worker.exe", False),
        ("Agent.Listener run", True),
        ("gitlab-runner run", False),
        ("buildkite-agent start", False),
        ("java -jar /opt/agent.jar", False),
        ("java -cp agent.jar hudson.remoting.jnlp.Main -headless", False),
        ("act push", False),
    ],
)
def test_ci_agents(command: str, *, idle: bool) -> None:
    agent = process(9, argv=(command,) if "\\" in command else tuple(command.split()))

    assert programs.is_ci_agent(agent)
    assert programs.is_idle_agent(agent) is idle


@pytest.mark.parametrize("command", ["java -jar shop.jar", "python runner.py", "actions"])
def test_others_are_no_ci_agents(command: str) -> None:
    assert not programs.is_ci_agent(process(9, command))


@pytest.mark.parametrize(
    ("command", "podman"),
    [
        ("/usr/bin/docker-proxy -proto tcp -host-port 8000", False),
        ("dockerd", False),
        ("containerd-shim-runc-v2", False),
        ("com.docker.backend", False),
        ("'/Applications/OrbStack.app/Contents/MacOS/OrbStack Helper'", False),
        ("colima", False),
        ("conmon --api-version 1", True),
        ("rootlessport", True),
        ("slirp4netns", True),
        ("pasta.avx2", True),
    ],
)
def test_container_engines(command: str, *, podman: bool) -> None:
    engine = process(9, command)

    assert programs.is_container_engine(engine)
    assert programs.is_podman(engine) is podman


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "/usr/bin/docker-proxy -proto udp -host-ip :: -host-port 53 -container-port 5353",
            ("::", "53/udp"),
        ),
        ("docker-proxy -proto tcp -host-port 8000", None),
        ("docker-proxy", None),
        ("server -proto tcp -host-ip :: -host-port 8000", None),
    ],
)
def test_what_a_docker_proxy_publishes(command: str, says: tuple[str, str] | None) -> None:
    assert programs.published(process(9, command)) == says


@pytest.mark.parametrize(
    ("command", "late"),
    [
        ("python3 /usr/bin/supervisord -c shop.conf", True),
        ("python3 -m supervisord", True),
        ("nodemon server.js", False),
    ],
)
def test_who_starts_a_server_again_with_the_next_tick(command: str, *, late: bool) -> None:
    assert programs.restarts_late(process(9, command)) is late


@pytest.mark.parametrize("command", ["docker run shop", "registry serve", "dockerize app"])
def test_who_uses_containers_is_no_engine(command: str) -> None:
    assert not programs.is_container_engine(process(9, command))


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        *(
            ("linux", name)
            for name in ("systemd-resolve", "dbus-daemon", "NetworkManager", "cupsd")
        ),
        *(("darwin", name) for name in ("launchd", "mDNSResponder", "rapportd", "ControlCenter")),
        *(("win32", name) for name in ("System", "Registry", "svchost.exe", "services.exe")),
        *(("win32", name) for name in ("wslrelay.exe", "wslhost.exe")),
        *((platform, "sshd") for platform in ("linux", "darwin", "win32")),
    ],
)
def test_parts_of_the_operating_system(platform: str, name: str) -> None:
    assert programs.is_operating_system(process(9, name, name=name), platform)
    assert programs.is_operating_system(process(9, name=name, argv=()), platform)


@pytest.mark.parametrize(
    ("platform", "name", "command"),
    [
        # The same names on another system.
        ("linux", "registry", "/bin/registry serve"),
        ("linux", "services", "services"),
        ("darwin", "svchost", "svchost"),
        ("win32", "rapportd", "rapportd"),
        ("freebsd14", "systemd", "systemd"),
        # Scripts of those names.
        ("win32", "python.exe", "python.exe services.py"),
        ("win32", "node.exe", "node.exe system.js"),
        ("linux", "init.py", "/usr/bin/python3 ./init.py"),
        ("linux", "node", "node sshd.js"),
    ],
)
def test_what_only_sounds_like_the_operating_system(platform: str, name: str, command: str) -> None:
    assert not programs.is_operating_system(process(9, command, name=name), platform)


def test_sshd_by_its_title() -> None:
    assert programs.is_operating_system(titled(9, "sshd: me@pts/0", name="sshd"), "linux")


@pytest.mark.parametrize(
    "command", ["ssh -NL 8000:db:5432 host", "autossh x", "kubectl proxy", "oc"]
)
def test_forwarders(command: str) -> None:
    assert programs.is_forwarder(process(9, command))


@pytest.mark.parametrize(
    "command",
    [
        *("ssh build.example", "ssh -L 8000:db:5432 build.example", "ssh -tt -i key build.example"),
        *("ssh -l N build.example", "ssh -o ForwardAgent=no build.example", "ssh -vL 1:db:2 x"),
        *("ssh -JN.example x", "ssh -p 22 -D 1080 -E f x"),
    ],
)
def test_somebody_works_in_an_ssh_with_a_terminal(command: str) -> None:
    assert programs.is_interactive_ssh(process(9, command, terminal="pts/1"))
    assert not programs.is_interactive_ssh(process(9, command))


@pytest.mark.parametrize(
    "command",
    [
        *("ssh -N -L 8000:db:5432 x", "ssh -NL 8000:db:5432 x", "ssh -fNTL 8000:db:5432 x"),
        *("ssh -f x sleep 60", "ssh -i key -vN x", "ssh -L 8000:db:5432 x -N"),
        *("autossh x", "kubectl port-forward x", "ssh-agent", "sshd", "sftp x"),
    ],
)
def test_nobody_works_in_an_ssh_that_only_forwards(command: str) -> None:
    assert not programs.is_interactive_ssh(process(9, command, terminal="pts/1"))


def test_an_ssh_that_other_sessions_share_is_worked_in() -> None:
    assert programs.is_interactive_ssh(titled(9, "ssh: /home/me/.ssh/cm [mux]", name="ssh"))
    assert programs.is_interactive_ssh(process(9, argv=("ssh: /home/me/.ssh/a b [mux]", "", "")))
    assert not programs.is_interactive_ssh(titled(9, "tmux: [mux]", name="tmux"))
    assert not programs.is_interactive_ssh(process(9, argv=(), name="ssh"))


@pytest.mark.parametrize("command", ["sshd", "ssh-agent", "kubelet", "socat"])
def test_no_forwarders(command: str) -> None:
    assert not programs.is_forwarder(process(9, command))


@pytest.mark.parametrize(
    "command",
    [
        "/usr/share/code/code --type=utility",
        "'/Applications/Code.app/Contents/MacOS/Code Helper (Plugin)'",
        "'Cursor Helper'",
        "/home/me/.vscode-server/cli/servers/Stable-1/server/node server-main.js",
        "/home/me/.cursor-server/bin/1/node x.js",
        "/usr/lib/code-server/lib/node /usr/lib/code-server",
        "node /usr/local/bin/code-server",
        "remote-dev-server",
    ],
)
def test_editor_helpers(command: str) -> None:
    assert programs.is_editor_helper(process(9, command))


@pytest.mark.parametrize(
    "command",
    [
        "python code.py",
        "/usr/bin/python3 ./code",  # by its #! line
        "node cursor.js",
        "codex",
        "/home/me/code-server/venv/bin/python server.py",
        "/home/me/code/shop/server",
    ],
)
def test_no_editor_helpers(command: str) -> None:
    assert not programs.is_editor_helper(process(9, command, name="x"))


@pytest.mark.parametrize(
    "unit",
    [
        *("user@1000.service", "app-org.kde.konsole@1.service", "cron.service", "crond.service"),
        *("anacron.service", "atd.service", "ssh.service", "sshd.service", "sshd@3-a.service"),
        *("actions.runner.me-shop.host.service", "gitlab-runner.service", "tmux.service"),
        *("buildkite-agent@1.service", "jenkins-agent.service", "vsts.agent.me.pool.a.service"),
        *("gnome-terminal-server.service", "getty@tty1.service", "serial-getty@ttyS0.service"),
        *("emacs.service", "code-server@me.service", "dbus-:1.2-org.gnome.Terminal@0.service"),
    ],
)
def test_units_that_hold_what_others_start(unit: str) -> None:
    assert programs.is_launcher_unit(unit)


@pytest.mark.parametrize(
    "unit",
    [
        *("nginx.service", "postgresql@16-main.service", "docker.service", "user-sync.service"),
        *(
            "cronicle.service",
            "jenkins.service",
            "emacs-bridge.service",
            "gitlab-workhorse.service",
        ),
        "run-u42.service",  # systemd-run: somebody wants it to be a service
        "com.vix.cron",  # launchd: its label is of that process alone
    ],
)
def test_units_of_their_own(unit: str) -> None:
    assert not programs.is_launcher_unit(unit)
