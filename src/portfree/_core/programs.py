"""What programs are called: the lists that the verdict goes by.

A name on no list is a launcher, that is, somebody who looks after what it started: a list that is
too short makes portfree keep too much, never stop too much.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from portfree._system.interface import Process

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "ash", "tcsh", "csh"})

WRAPPERS = SHELLS | {
    *("npm", "npm-cli", "npx", "npx-cli", "yarn", "yarnpkg", "pnpm", "pnpx", "bunx", "corepack"),
    *("uv", "uvx", "poetry", "hatch", "pdm", "pipenv", "pipx", "rye", "pixi", "mise"),
    *("make", "gmake", "just", "task", "env", "timeout", "sudo", "doas"),
    *("tsx", "cross-env", "cross-env-shell", "dotenv", "dotenvx", "env-cmd"),
}
"""Programs that start one command and wait for it: they pass nothing on and look after nothing."""

_WRAPPERS_BY_COMMAND = {
    "bun": frozenset({"run", "x"}),
    "deno": frozenset({"task"}),
    "go": frozenset({"run"}),
    "cargo": frozenset({"run"}),
    "dotnet": frozenset({"run"}),
}
"""Programs that do the same with one of these for their first argument."""

_GROUP_RUNNERS = frozenset({"concurrently", "npm-run-all", "run-p", "run-s", "honcho", "foreman"})
"""Programs that start several commands, and end when these do: where nobody sits at their terminal
any more, they look after nothing either."""

_PTY_MAKERS = frozenset({"script", "expect", "unbuffer"})
"""Programs that give their command a terminal at which nobody sits."""

PROCESS_MANAGERS = {
    **dict.fromkeys(("pm2", "pm2-runtime", "pm2-docker", "pm2-dev"), "pm2"),
    "forever": "forever",
    "supervisord": "supervisord",
    "circusd": "circusd",
    "overmind": "overmind",
    "process-compose": "process-compose",
    **dict.fromkeys(("runsv", "runsvdir"), "runsv"),
    "s6-supervise": "s6-supervise",
    "monit": "monit",
    "god": "god",
}
"""Programs that keep other programs running, of several projects mostly."""

_ADVICE = {
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

_OTHER_SHELLS = frozenset({"nu", "xonsh", "pwsh", "elvish", "oil", "osh", "ysh"})
"""Shells that people type into, and that hardly anything runs a command with."""

_SHELL_OPTIONS_WITH_VALUE = frozenset(
    {"--rcfile", "--init-file", "--init-command", "-C", "-O", "+O", "-o", "+o"}
)

_NO_SERVERS = SHELLS | {
    "sleep",
    "tail",
    "cat",
    "tee",
    "less",
    "more",
    "watch",
    "yes",
    "inotifywait",
}
"""Programs that open no port: one that has a socket has inherited it."""

REAPERS = frozenset(
    {
        *("init", "systemd", "launchd", "openrc-init", "runit", "runit-init"),
        *("tini", "tini-static", "dumb-init", "docker-init", "catatonit", "s6-svscan"),
        "sessionleader",  # WSL
    }
)
"""Programs that adopt orphans."""

_WSL_RELAY = re.compile(r"relay\(\d+\)")

MULTIPLEXERS = frozenset(
    {
        *("tmux", "screen", "zellij", "byobu", "dtach", "abduco", "mosh-server", "ttyd"),
        *("emacs", "emacs-nox", "emacs-gtk", "emacsclient", "vim", "nvim"),
        *("code", "code-server", "codium", "cursor", "windsurf", "electron"),
        *("pycharm", "idea", "webstorm", "goland", "rider", "fleet", "jetbrains-gateway", "zed"),
        *("gnome-terminal-server", "konsole", "kitty", "alacritty", "wezterm-gui", "ghostty"),
        *("xterm", "uxterm", "urxvt", "rxvt", "urxvtd", "st", "foot", "footserver", "terminator"),
        *("xfce4-terminal", "lxterminal", "mate-terminal", "tilix", "guake", "yakuake", "terminal"),
    }
)
_JUPYTER = frozenset({"jupyter-lab", "jupyter-notebook", "jupyter-server", "jupyterlab"})
"""Programs that outlive whoever started them, and hand that environment on to strangers."""

TEST_RUNNERS = frozenset(
    {
        *("pytest", "py.test", "nox", "tox", "unittest", "nose2", "behave", "robot"),
        *("trial", "stestr", "green"),
        "pytest-xdist",  # the title of its workers, where setproctitle is installed
        *("jest", "vitest", "mocha", "ava", "cypress", "karma"),
        *("ctest", "cargo-nextest", "gotestsum", "phpunit", "rspec", "rake"),
        # What PyCharm and VS Code start pytest and unittest with.
        *("_jb_pytest_runner", "_jb_unittest_runner", "run_pytest_script"),
    }
)

_RUNNERS_BY_COMMAND = frozenset(
    {"manage", "django-admin", "go", "cargo", "dotnet", "mix", "bun", "deno", "playwright"}
)
"""Programs that run tests when ``test`` is among their arguments."""

_SERVING_RUNNERS = frozenset({"karma"})
"""Test runners that are servers themselves: one that nobody looks after runs no tests."""

CI_AGENTS = frozenset(
    {
        *("runner.worker", "runner.listener", "agent.worker", "agent.listener", "act"),
        *("gitlab-runner", "gitlab-ci-multi-runner", "buildkite-agent", "circleci-agent"),
        *("circleci-runner", "circleci-launch-agent"),
        # TeamCity, by java -cp
        *("jetbrains.buildserver.agent.agentmain", "jetbrains.buildserver.agent.launcher"),
        *("drone-runner-exec", "woodpecker-agent", "agent.jar", "remoting.jar", "slave.jar"),
        *("hudson.remoting.jnlp.main", "hudson.remoting.launcher"),  # Jenkins, by java -cp
        *("forgejo-runner", "act_runner", "concourse", "cirrus", "travis-worker"),
    }
)

IDLE_AGENTS = frozenset({"runner.listener", "agent.listener"})
"""CI agents that run all the time; while a job is on, they have a worker beside them."""

_PODMAN = ("podman", "conmon", "rootlessport", "containers-root", "slirp4netns", "pasta")
"""How the names of Podman's programs start."""

CONTAINER_ENGINES = frozenset(
    {
        *("docker-proxy", "dockerd", "docker-containe", "containerd", "containerd-shim", "conmon"),
        *("containerd-shim-runc-v2", "containers-root", "containers-rootlessport"),
        *(
            "containers-rootlessport-child",
            "rootlessport",
            "rootlessport-child",
            "rootlesskit",
            "slirp4netns",
            "pasta",
            "pasta.avx2",
        ),
        *("com.docker.backend", "com.docker.vpnkit", "vpnkit", "orbstack", "orbstack helper"),
        *("colima", "limactl", "podman", "gvproxy", "netavark", "aardvark-dns", "kube-proxy"),
    }
)

_TICKING_SUPERVISORS = frozenset({"supervisord"})
"""Supervisors that look once a second whether there is something to start."""

_CONTAINER_SHIMS = frozenset({"containerd-shim", "containerd-shim-runc-v2", "conmon"})
"""What the processes of a container descend from, as seen from outside."""

_SYSTEM_PARTS: dict[str, frozenset[str]] = {
    "linux": frozenset(
        {
            *(
                "systemd",
                "systemd-resolve",
                "systemd-resolved",
                "systemd-network",
                "systemd-networkd",
            ),
            *("systemd-logind", "systemd-journal", "systemd-journald", "init", "dbus-daemon"),
            *("dbus-broker", "networkmanager", "avahi-daemon", "cupsd", "rpcbind", "rpc.statd"),
            *("polkitd", "wpa_supplicant", "tailscaled"),
        }
    ),
    "darwin": frozenset(
        {
            *("launchd", "kernel_task", "windowserver", "mdnsresponder", "rapportd", "sharingd"),
            *("remoted", "airplayxpchelper", "controlcenter", "controlce", "identityservicesd"),
        }
    ),
    "win32": frozenset(
        {
            *("system", "registry", "smss", "csrss", "wininit", "winlogon", "services", "lsass"),
            *(
                "svchost",
                "spoolsv",
                "wudfhost",
                "vmwp",
                "vmms",
                "wslrelay",
                "wslhost",
                "wslservice",
            ),
        }
    ),
}
"""Parts of the operating system, by `sys.platform`."""

_WAYS_IN = frozenset({"sshd", "sshd-session", "sshd-auth", "dropbear"})

FORWARDERS = frozenset({"ssh", "autossh", "kubectl", "oc"})
"""Programs that have a port open only to carry it to another machine."""

_EDITOR_HELPER = re.compile(
    r"(?:code|vscodium|cursor|windsurf)(?: helper(?: \(.+\))?)?"
    r"|codium|code-server|remote-dev-serv.*"
)
_EDITOR_PATH = re.compile(
    r"/\.(?:vscode-server|vscode-remote|cursor-server|windsurf-server)/"
    r"|/code-server[^/]*/lib/node$"
)

# Units of systemd that hold what other people start: whoever is in one of these has no service of
# its own. Whole names, for cronicle.service serves, and jenkins.service is Jenkins itself.
_LAUNCHER_UNITS = re.compile(
    r"(?:app-.+|dbus-.+|gnome-terminal-.+|jenkins-(?:agent|slave|swarm).*"
    r"|actions\.runner\..+|vsts\.agent\..+"
    r"|(?:user|(?:ana)?cron|crond|cronie|atd|sshd?|gitlab-runner|buildkite-agent"
    r"|circleci(?:-agent|-runner)?|act_runner|forgejo-runner|tmux|screen|emacs|code-server"
    r"|dbus|(?:serial-|console-|container-)?getty)(?:@.*)?)\.service"
)

_INTERPRETERS = re.compile(
    r"(?:python|pypy|node|nodejs|ruby|perl|java|bun|deno)[0-9.]*(?:-dbg|t)?w?"
)
# Python takes its flags in one word, and the module after them too: -um pytest, -mpytest.
_PYTHON = re.compile(r"(?:python|pypy).*")
_PYTHON_MODULE = re.compile(r"-[bBdEhiIOPqRsSuvVx]*m(.*)")
_PYTHON_CODE = re.compile(r"-[bBdEhiIOPqRsSuvVx]*c.*", re.DOTALL)
_OPTIONS_WITH_VALUE = frozenset(
    {
        *("-W", "-X", "--check-hash-based-pycs"),  # Python
        *("-r", "--require", "--import", "--loader", "--experimental-loader", "--env-file", "-C"),
        *("-cp", "-classpath", "--class-path", "--add-opens", "--add-exports"),  # Java
    }
)
_JS_COMMANDS = frozenset({"run", "x", "task", "test", "serve", "exec"})
_TITLE_WORDS = re.compile(r"[^\s()\[\]]+")
_ENDINGS = (".exe", ".py", ".pyz", ".js", ".cjs", ".mjs", ".rb", ".pl", ".cmd", ".bat")


def program(process: Process) -> str:
    """The program that a process runs, by its command line, in lower case.

    ``python3 -m pytest`` is pytest, ``node /usr/bin/npm`` is npm, ``busybox sh`` is sh, and
    ``npm run dev`` (npm changes its title) is npm too. Without a command line, the kernel's name.
    """
    return _program(process.argv, process.name)


@lru_cache(maxsize=4096)  # the rules ask for the same few programs some hundred times a look
def _program(argv: tuple[str, ...], kernels_name: str) -> str:
    first, *rest = _split(argv) or (kernels_name,)
    name = _plain(first)
    if name == "busybox" and rest:
        return _plain(rest[0])
    return _script(name, rest) or name if _INTERPRETERS.fullmatch(name) else name


def names(process: Process) -> frozenset[str]:
    """Everything that a process goes by: its program, its first word, and the kernel's name."""
    return _names(process.argv, process.name)


@lru_cache(maxsize=4096)
def _names(argv: tuple[str, ...], kernels_name: str) -> frozenset[str]:
    return _executable(argv, kernels_name) | {_program(argv, kernels_name), _plain(kernels_name)}


def _own_names(process: Process) -> frozenset[str]:
    """What the executable is called, whatever it runs: a script may well have the name of a part of
    the system, such as services.py, or init.py, which looks after what it started.
    """
    return _executable(process.argv, process.name)


@lru_cache(maxsize=4096)
def _executable(argv: tuple[str, ...], kernels_name: str) -> frozenset[str]:
    first = {_plain(word) for word in _split(argv)[:1]}
    # The kernel's name of a script that is executed by its #! line is the script's.
    return frozenset(first if any(map(_runs_scripts, first)) else {*first, _plain(kernels_name)})


def _words(process: Process) -> tuple[str, ...]:
    """The command line; a title that a program gave itself is split, its program's name first."""
    return _split(process.argv)


def _split(argv: tuple[str, ...]) -> tuple[str, ...]:
    words = list(argv)
    while words and not words[-1]:  # what a shorter title leaves of the old command line
        words.pop()
    if len(words) == 1:
        # "nginx: master process", "npm run dev", "node (vitest 1)"; but no path that has a space
        first, *rest = _TITLE_WORDS.findall(words[0]) or words
        if rest and "/" not in first and "\\" not in first:
            return first.rstrip(":"), *rest
    return tuple(words)


def is_shell(process: Process) -> bool:
    return program(process) in SHELLS


def is_interactive_shell(process: Process) -> bool:
    """Whether it is a shell that may read its commands from a terminal.

    False must mean that it certainly runs a command (``-c``) or a script.
    """
    first, *rest = _words(process) or ("",)
    if program(process) not in SHELLS | _OTHER_SHELLS:
        return False
    if _plain(first) == "busybox":
        rest = rest[1:]
    words = iter(rest)
    runs_one = False
    for word in words:
        if word in _SHELL_OPTIONS_WITH_VALUE:
            next(words, None)
        elif word.startswith("--") and word != "--command":
            continue
        elif word.startswith(("-", "+")):
            runs_one = runs_one or "c" in word
        else:
            runs_one = True
    return not runs_one


def is_wrapper(process: Process) -> bool:
    name = program(process)
    if name in _GROUP_RUNNERS:
        return process.terminal is None
    return name in WRAPPERS or _command(process) in _WRAPPERS_BY_COMMAND.get(name, ())


def is_pty_maker(process: Process) -> bool:
    return program(process) in _PTY_MAKERS


def process_manager(process: Process) -> str:
    """Which process manager it is; empty if it is none."""
    if any(word.replace("\\", "/").endswith("/forever/bin/monitor") for word in process.argv[:2]):
        return "forever"
    return PROCESS_MANAGERS.get(program(process), "")


def manager_advice(manager: Process, app: Process | None) -> str:
    """How to stop one of a process manager's programs, in the manager's own words."""
    kind = process_manager(manager)
    name = program(app) if app else ""
    if kind in ("runsv", "s6-supervise"):  # each of them looks after one, and names it
        name = (_words(manager)[1:2] or ("",))[0]
    elif app and _INTERPRETERS.fullmatch(name):
        name = ""
    return _ADVICE[kind].format(app=name or "NAME")


def opens_no_ports(process: Process) -> bool:
    return program(process) in _NO_SERVERS


def is_interactive_ssh(process: Process) -> bool:
    """Whether somebody works in it: an ssh with a terminal that runs more than a forwarding, or
    one that other sessions share (ControlMaster in ssh_config(5)).
    """
    if program(process) != "ssh":
        return False
    if is_shared_ssh(process):
        return True
    return process.terminal is not None and not _ssh_flags(process) & {"N", "f"}


def is_shared_ssh(process: Process) -> bool:
    """Whether other sessions go through it (ControlMaster in ssh_config(5)): it says so itself."""
    return bool(process.argv) and process.argv[0].endswith("[mux]") and program(process) == "ssh"


def _ssh_flags(process: Process) -> set[str]:
    """The flags on an ssh's command line (ssh(1))."""
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
    return flags


def serves(process: Process) -> bool:
    """Whether it is a test runner that is a server, too."""
    return bool(names(process) & _SERVING_RUNNERS)


def runs_commands(process: Process) -> bool:
    """Whether it is a ``portfree run`` or a step of our action: it adopts what its command leaves
    (PR_SET_CHILD_SUBREAPER in prctl(2)).
    """
    return (program(process) == "portfree" and _command(process) == "run") or any(
        word == "portfree._cli.action" for word in process.argv
    )


def _command(process: Process) -> str:
    """The first argument that is no option, of the program and not of its interpreter."""
    words = _words(process)
    own = program(process)
    at = next((n for n, word in enumerate(words) if _plain(word) == own), 0)
    return next((word for word in words[at + 1 :] if not word.startswith("-")), "")


def is_listed_reaper(process: Process) -> bool:
    known = _own_names(process)
    return bool(known & REAPERS) or any(_WSL_RELAY.fullmatch(name) for name in known)


def is_systemd(process: Process) -> bool:
    # As pid 1 its command line is mostly /sbin/init.
    return "systemd" in _own_names(process)


def is_multiplexer(process: Process) -> bool:
    # tmux calls its server "tmux: server", screen calls its own SCREEN.
    known = _own_names(process) | {process.name.split(":")[0].lower()}
    if known & MULTIPLEXERS or program(process) in _JUPYTER:
        return True
    return is_editor_helper(process)


def is_test_runner(process: Process) -> bool:
    if names(process) & TEST_RUNNERS or runs_commands(process):
        return True
    name, words = program(process), _words(process)
    if name in _RUNNERS_BY_COMMAND:
        return "test" in words
    # One inside of another: coverage run -m pytest, python -m debugpy --listen 5678 -m pytest.
    inside = set()
    if name == "coverage":
        inside = {_plain(word) for word in words}
    elif words and _PYTHON.fullmatch(_plain(words[0])):
        inside = {_plain(word) for option, word in pairwise(words) if option == "-m"}
    return bool(inside & {*TEST_RUNNERS, *_RUNNERS_BY_COMMAND})


def is_pytest(process: Process) -> bool:
    return bool(names(process) & {"pytest", "py.test"})


def is_xdist_worker(process: Process) -> bool:
    """By the title that it gives itself where setproctitle is installed, or by the command that
    execnet starts it with (popen_bootstrapline in its gateway_io.py).
    """
    started = "exec(eval(sys.stdin.readline()))" in "".join(process.argv[-1:])
    return started or program(process) == "pytest-xdist"


def is_ci_agent(process: Process) -> bool:
    return bool(names(process) & CI_AGENTS)


def is_idle_agent(process: Process) -> bool:
    return bool(names(process) & IDLE_AGENTS)


def is_container_engine(process: Process) -> bool:
    return bool(names(process) & CONTAINER_ENGINES)


def is_podman(process: Process) -> bool:
    return any(name.startswith(_PODMAN) for name in names(process))


def is_container_shim(process: Process) -> bool:
    """Whether it is the parent of a container's first process."""
    return bool(names(process) & _CONTAINER_SHIMS)


def published(process: Process) -> tuple[str, str] | None:
    """The address and the port, as in ``8000/tcp``, that a docker-proxy has open by its command
    line, which is there for all to read, as its descriptors are not.
    """
    said = dict(pairwise(process.argv)) if program(process) == "docker-proxy" else {}
    if not {"-host-ip", "-host-port", "-proto"} <= said.keys():
        return None
    return said["-host-ip"], f"{said['-host-port']}/{said['-proto']}"


def restarts_late(process: Process) -> bool:
    """Whether it starts what has ended again when its clock ticks next, and not at once."""
    return bool(names(process) & _TICKING_SUPERVISORS)


def is_operating_system(process: Process, platform: str) -> bool:
    return bool(_own_names(process) & (_SYSTEM_PARTS.get(platform, frozenset()) | _WAYS_IN))


def is_forwarder(process: Process) -> bool:
    """Whether it carries a port elsewhere: ``ssh -L``, ``kubectl port-forward``."""
    return bool(names(process) & FORWARDERS)


def is_editor_helper(process: Process) -> bool:
    """Whether it is an editor's own: VS Code forwards the ports of remote machines and of WSL."""
    if any(map(_EDITOR_HELPER.fullmatch, _own_names(process))) or program(process) == "code-server":
        return True
    return bool(process.argv) and _EDITOR_PATH.search(process.argv[0]) is not None


def is_launcher_unit(unit: str) -> bool:
    """Whether a unit holds what others start, such as ``cron.service`` or ``user@1000.service``."""
    return _LAUNCHER_UNITS.fullmatch(unit) is not None


def _runs_scripts(name: str) -> bool:
    return name in SHELLS or name == "busybox" or _INTERPRETERS.fullmatch(name) is not None


def _script(interpreter: str, words: Sequence[str]) -> str:
    """What an interpreter runs: the module after ``-m``, the file after ``-jar``, or the script."""
    python = _PYTHON.fullmatch(interpreter) is not None
    if interpreter in ("bun", "deno"):
        first, *files = [word for word in words if not word.startswith("-")] or [""]
        if first in _JS_COMMANDS:  # bun run dev, deno task dev, but also bun run server.ts
            return _plain(files[0]) if files and re.search(r"[./\\]", files[0]) else ""
    rest = iter(words)
    for word in rest:
        module = _PYTHON_MODULE.fullmatch(word) if python else None
        if module or word == "-jar":
            named = (module and module[1]) or next(rest, "")
            return _plain(named.removesuffix(".__main__"))
        if word in ("-c", "-e", "--eval", "-p", "-") or (python and _PYTHON_CODE.fullmatch(word)):
            return ""
        if word in _OPTIONS_WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return _plain(re.sub(r"[/\\]__main__\.py$", "", word))
    return ""


def _plain(word: str) -> str:
    name = word.replace("\\", "/").rpartition("/")[2]
    name = name.removeprefix("-").lower()  # "-bash" is a login shell
    for ending in _ENDINGS:
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending)
    return name
