"""The names of programs: the lists that the rules go by.

A program on no list counts as a launcher, which looks after what it starts. So a list that is too
short makes portfree keep too much, and never stop too much.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from portfree._core.naming import (
    INTERPRETERS,
    PYTHON,
    SHELLS,
    first_argument,
    own_names,
    plain_name,
    split_title,
    word_set,
)
from portfree._core.naming import names as names
from portfree._core.naming import program as program

if TYPE_CHECKING:
    from collections.abc import Callable

    from portfree._system.interface import Process


def _runs(known: frozenset[str]) -> Callable[[Process], bool]:
    """The question whether a process runs one of these programs."""
    return lambda process: program(process) in known


def _is_called(known: frozenset[str]) -> Callable[[Process], bool]:
    """The question whether one of a process's names is one of these."""
    return lambda process: not known.isdisjoint(names(process))


is_shell = _runs(SHELLS)

# Shells for typing: hardly any program runs a command with one of these.
_OTHER_SHELLS = word_set("nu xonsh pwsh elvish oil osh ysh")

_SHELL_OPTIONS_WITH_VALUE = word_set("--rcfile --init-file --init-command -C -O +O -o +o")

# Programs that start one command and wait for it: they pass nothing on and look after nothing.
_WRAPPERS = SHELLS | word_set("""
    npm npm-cli npx npx-cli yarn yarnpkg pnpm pnpx bunx corepack
    uv uvx poetry hatch pdm pipenv pipx rye pixi mise
    make gmake just task env timeout sudo doas
    tsx cross-env cross-env-shell dotenv dotenvx env-cmd
""")

# Programs that do the same with one of these as their first argument.
_WRAPPERS_BY_COMMAND = word_set("bun/run bun/x deno/task go/run cargo/run dotnet/run")

# Programs that start several commands and end with them. Without a terminal, nobody watches them,
# and they look after nothing either.
_GROUP_RUNNERS = word_set("concurrently npm-run-all run-p run-s honcho foreman")

# Programs that give their command a terminal at which nobody sits.
is_pty_maker = _runs(word_set("script expect unbuffer"))

# Programs that keep other programs running, mostly those of several projects, and what stops one.
_MANAGERS = {
    "pm2": "pm2 stop {app} (pm2 list names them)",
    "forever": "forever stop {app} (forever list names them)",
    "supervisord": "supervisorctl stop {app} (supervisorctl status names them)",
    "circusd": "circusctl stop {app} (circusctl status names them)",
    "overmind": "overmind stop {app} (overmind ps names them)",
    "process-compose": "process-compose process stop {app} (process-compose list names them)",
    "runsv": "sv down {app}",
    "s6-supervise": "s6-svc -d {app}",
    "monit": "monit stop {app} (monit summary names them)",
    "god": "god stop {app} (god status names them)",
}
_MANAGER_NAMES = {
    **{name: name for name in _MANAGERS},
    **dict.fromkeys(("pm2-runtime", "pm2-docker", "pm2-dev"), "pm2"),
    "runsvdir": "runsv",
}

# Supervisors that look once a second whether there is something to start.
restarts_late = _is_called(word_set("supervisord"))

# Programs that open no port: one that has a socket has inherited it.
opens_no_ports = _runs(SHELLS | word_set("sleep tail cat tee less more watch yes inotifywait"))

# Programs that adopt orphans. "sessionleader" is WSL's.
_REAPERS = word_set("""
    init systemd launchd openrc-init runit runit-init sessionleader
    tini tini-static dumb-init docker-init catatonit s6-svscan
""")
_WSL_RELAY = re.compile(r"relay\(\d+\)")

# Programs that outlive the one that started them, and pass its environment on to strangers.
_MULTIPLEXERS = word_set("""
    tmux screen zellij byobu dtach abduco mosh-server ttyd
    emacs emacs-nox emacs-gtk emacsclient vim nvim
    code code-server codium cursor windsurf electron
    pycharm idea webstorm goland rider fleet jetbrains-gateway zed
    gnome-terminal-server konsole kitty alacritty wezterm-gui ghostty
    xterm uxterm urxvt rxvt urxvtd st foot footserver terminator
    xfce4-terminal lxterminal mate-terminal tilix guake yakuake terminal
""")
_JUPYTER = word_set("jupyter-lab jupyter-notebook jupyter-server jupyterlab")

# "pytest-xdist" is the title of its workers, where setproctitle is installed. PyCharm and VS Code
# start pytest and unittest with the programs of the last line.
_TEST_RUNNERS = word_set("""
    pytest py.test nox tox unittest nose2 behave robot trial stestr green pytest-xdist
    jest vitest mocha ava cypress karma ctest cargo-nextest gotestsum phpunit rspec rake
    _jb_pytest_runner _jb_unittest_runner run_pytest_script
""")
is_pytest = _is_called(word_set("pytest py.test"))

# Programs that run tests when ``test`` is among their arguments.
_RUNNERS_BY_COMMAND = word_set("manage django-admin go cargo dotnet mix bun deno playwright")

# Test runners that are servers too: one that nothing looks after runs no tests.
serves = _is_called(word_set("karma"))

# The last lines are classes that Jenkins and TeamCity start by ``java -cp``.
_CI_AGENTS = word_set("""
    runner.worker runner.listener agent.worker agent.listener act
    gitlab-runner gitlab-ci-multi-runner buildkite-agent
    circleci-agent circleci-runner circleci-launch-agent
    drone-runner-exec woodpecker-agent agent.jar remoting.jar slave.jar
    forgejo-runner act_runner concourse cirrus travis-worker
    hudson.remoting.jnlp.main hudson.remoting.launcher
    jetbrains.buildserver.agent.agentmain jetbrains.buildserver.agent.launcher
""")
is_ci_agent = _is_called(_CI_AGENTS)

# CI agents that run all the time. While a job runs, they have a worker beside them.
is_idle_agent = _is_called(word_set("runner.listener agent.listener"))

# How the names of Podman's programs start.
_PODMAN = ("podman", "conmon", "rootlessport", "containers-root", "slirp4netns", "pasta")

_CONTAINER_ENGINES = word_set("""
    docker-proxy dockerd docker-containe containerd containerd-shim containerd-shim-runc-v2 conmon
    containers-root containers-rootlessport containers-rootlessport-child
    rootlessport rootlessport-child rootlesskit slirp4netns pasta pasta.avx2
    com.docker.backend com.docker.vpnkit vpnkit orbstack colima limactl
    podman gvproxy netavark aardvark-dns kube-proxy
""") | {"orbstack helper"}
is_container_engine = _is_called(_CONTAINER_ENGINES)

# The processes of a container descend from one of these, as seen from outside.
is_container_shim = _is_called(word_set("containerd-shim containerd-shim-runc-v2 conmon"))

# Parts of the operating system, by `sys.platform`.
_SYSTEM_PARTS = {
    "linux": word_set("""
        systemd systemd-resolve systemd-resolved systemd-network systemd-networkd
        systemd-logind systemd-journal systemd-journald init dbus-daemon dbus-broker
        networkmanager avahi-daemon cupsd rpcbind rpc.statd polkitd wpa_supplicant tailscaled
    """),
    "darwin": word_set("""
        launchd kernel_task windowserver mdnsresponder rapportd sharingd
        remoted airplayxpchelper controlcenter controlce identityservicesd
    """),
    "win32": word_set("""
        system registry smss csrss wininit winlogon services lsass
        svchost spoolsv wudfhost vmwp vmms wslrelay wslhost wslservice
    """),
}

_SSH_SERVERS = word_set("sshd sshd-session sshd-auth dropbear")

# Programs that have a port open only to carry it to another machine: ``ssh -L``.
is_forwarder = _is_called(word_set("ssh autossh kubectl oc"))

_EDITOR_HELPER = re.compile(
    r"(?:code|vscodium|cursor|windsurf)(?: helper(?: \(.+\))?)?"
    r"|codium|code-server|remote-dev-serv.*"
)
_EDITOR_PATH = re.compile(
    r"/\.(?:vscode-server|vscode-remote|cursor-server|windsurf-server)/"
    r"|/code-server[^/]*/lib/node$"
)

# Units of systemd that hold what other programs start: a process in one of these is no service of
# its own. Whole names, for cronicle.service serves, and jenkins.service is Jenkins itself.
_LAUNCHER_UNITS = re.compile(
    r"(?:app-.+|dbus-.+|gnome-terminal-.+|jenkins-(?:agent|slave|swarm).*"
    r"|actions\.runner\..+|vsts\.agent\..+"
    r"|(?:user|(?:ana)?cron|crond|cronie|atd|sshd?|gitlab-runner|buildkite-agent"
    r"|circleci(?:-agent|-runner)?|act_runner|forgejo-runner|tmux|screen|emacs|code-server"
    r"|dbus|(?:serial-|console-|container-)?getty)(?:@.*)?)\.service"
)


def is_interactive_shell(process: Process) -> bool:
    """Whether it is a shell that may read from a terminal: False if it certainly runs a command."""
    if program(process) not in SHELLS | _OTHER_SHELLS:
        return False
    first, *rest = split_title(process.argv) or ("",)
    words = iter(rest[1:] if plain_name(first) == "busybox" else rest)
    for word in words:
        if word in _SHELL_OPTIONS_WITH_VALUE:
            next(words, None)
        elif word == "--command" or not re.match(r"--|[-+][^c]*$", word):
            return False
    return True


def is_wrapper(process: Process) -> bool:
    name = program(process)
    if name in _GROUP_RUNNERS:
        return process.terminal is None
    return name in _WRAPPERS or f"{name}/{first_argument(process)}" in _WRAPPERS_BY_COMMAND


def process_manager(process: Process) -> str:
    """Which process manager it is; empty if it is none."""
    if any(word.replace("\\", "/").endswith("/forever/bin/monitor") for word in process.argv[:2]):
        return "forever"
    return _MANAGER_NAMES.get(program(process), "")


def manager_advice(manager: Process, app: Process | None) -> str:
    """How to stop one of a process manager's programs, in the manager's own words."""
    kind = process_manager(manager)
    name = program(app) if app else ""
    if kind in ("runsv", "s6-supervise"):  # each of them looks after one, and names it
        name = (split_title(manager.argv)[1:2] or ("",))[0]
    elif app and INTERPRETERS.fullmatch(name):
        name = ""
    return _MANAGERS[kind].format(app=name or "NAME")


def is_shared_ssh(process: Process) -> bool:
    """Whether other sessions go through it (ControlMaster in ssh_config(5)): its title says so."""
    return bool(process.argv) and process.argv[0].endswith("[mux]") and program(process) == "ssh"


def is_interactive_ssh(process: Process) -> bool:
    """Whether a person works in it: it is shared, or has a terminal and not just forwards ports."""
    if program(process) != "ssh" or is_shared_ssh(process):
        return is_shared_ssh(process)
    flags: set[str] = set()
    words = iter(process.argv[1:])
    for word in words:
        if not word.startswith("-"):
            continue
        for at, letter in enumerate(word[1:], 2):
            flags.add(letter)
            if letter in "BbcDEeFIiJLlmOoPpQRSWw":  # these take a value: the rest, or the next word
                if not word[at:]:
                    next(words, None)
                break
    return process.terminal is not None and not flags & {"N", "f"}  # ssh(1)


def is_listed_reaper(process: Process) -> bool:
    known = own_names(process)
    return bool(known & _REAPERS) or any(map(_WSL_RELAY.fullmatch, known))


def is_systemd(process: Process) -> bool:
    return "systemd" in own_names(process)  # as pid 1 its command line is mostly /sbin/init


def is_operating_system(process: Process, platform: str) -> bool:
    return bool(own_names(process) & (_SYSTEM_PARTS.get(platform, frozenset()) | _SSH_SERVERS))


def is_launcher_unit(unit: str) -> bool:
    """Whether a unit holds what others start, such as ``cron.service`` or ``user@1000.service``."""
    return _LAUNCHER_UNITS.fullmatch(unit) is not None


def is_multiplexer(process: Process) -> bool:
    # tmux calls its server "tmux: server", screen calls its own SCREEN.
    known = own_names(process) | {process.name.split(":")[0].lower()}
    listed = known & _MULTIPLEXERS or program(process) in _JUPYTER
    return bool(listed) or is_editor_helper(process)


def is_editor_helper(process: Process) -> bool:
    """Whether it is an editor's own: VS Code forwards the ports of remote machines and of WSL."""
    if any(map(_EDITOR_HELPER.fullmatch, own_names(process))) or program(process) == "code-server":
        return True
    return bool(process.argv) and _EDITOR_PATH.search(process.argv[0]) is not None


def is_test_runner(process: Process) -> bool:
    if names(process) & _TEST_RUNNERS or runs_commands(process):
        return True
    name, words = program(process), split_title(process.argv)
    if name in _RUNNERS_BY_COMMAND:
        return "test" in words
    # One inside of another: coverage run -m pytest, python -m debugpy --listen 5678 -m pytest.
    inside = set()
    if name == "coverage":
        inside = set(map(plain_name, words))
    elif words and PYTHON.fullmatch(plain_name(words[0])):
        inside = {plain_name(word) for option, word in pairwise(words) if option == "-m"}
    return bool(inside & (_TEST_RUNNERS | _RUNNERS_BY_COMMAND))


def is_xdist_worker(process: Process) -> bool:
    """By its title (setproctitle), or by execnet's command (popen_bootstrapline)."""
    started = "exec(eval(sys.stdin.readline()))" in "".join(process.argv[-1:])
    return started or program(process) == "pytest-xdist"


def runs_commands(process: Process) -> bool:
    """Whether it adopts what its command leaves (PR_SET_CHILD_SUBREAPER in prctl(2))."""
    as_command = program(process) == "portfree" and first_argument(process) == "run"
    return as_command or "portfree._cli.action" in process.argv


def is_podman(process: Process) -> bool:
    return any(name.startswith(_PODMAN) for name in names(process))


def published(process: Process) -> tuple[str, str] | None:
    """The address and the port, as in ``8000/tcp``, that a docker-proxy's command line tells."""
    said = dict(pairwise(process.argv)) if program(process) == "docker-proxy" else {}
    if not {"-host-ip", "-host-port", "-proto"} <= said.keys():
        return None
    return said["-host-ip"], f"{said['-host-port']}/{said['-proto']}"
