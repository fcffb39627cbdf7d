"""What programs are called: the lists that the verdict goes by.

A name on no list is a launcher, that is, somebody who looks after what it started: a list that is
too short makes portfree keep too much, never stop too much.
"""

from __future__ import annotations

import re

from portfree.system.boundary import Process

SHELLS = frozenset(
    {"sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "ash", "busybox", "tcsh", "csh"}
)

WRAPPERS = SHELLS | {
    *("npm", "npm-cli", "npx", "npx-cli", "yarn", "yarnpkg", "pnpm", "pnpx", "corepack"),
    *("uv", "uvx", "poetry", "hatch", "pdm", "pipenv", "pipx"),
    *("make", "gmake", "env", "timeout", "sudo", "doas"),
}
"""Programs that start one command and wait for it: they pass nothing on and look after nothing."""

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
        *("jupyter-lab", "jupyter-notebook", "jupyter-server"),
    }
)
"""Programs that outlive whoever started them, keep that environment, and hand it on to strangers."""

TEST_RUNNERS = frozenset(
    {
        *("pytest", "py.test", "nox", "tox", "unittest", "nose2", "behave", "robot", "portfree"),
        *("jest", "vitest", "mocha", "ava", "playwright", "cypress", "karma"),
        *("ctest", "cargo-nextest", "gotestsum", "phpunit", "rspec", "rake"),
    }
)

CI_AGENTS = frozenset(
    {
        *("runner.worker", "runner.listener", "agent.worker", "agent.listener", "act"),
        *("gitlab-runner", "gitlab-ci-multi-runner", "buildkite-agent", "circleci-agent"),
        *("drone-runner-exec", "woodpecker-agent", "agent.jar", "remoting.jar", "slave.jar"),
        *("forgejo-runner", "act_runner", "concourse", "cirrus", "travis-worker"),
    }
)

IDLE_AGENTS = frozenset({"runner.listener", "agent.listener"})
"""CI agents that run all the time; while a job is on, they have a worker beside them."""

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

EDITOR_HELPERS = frozenset(
    {"code", "code helper", "code-server", "codium", "cursor", "windsurf", "remote-dev-serv"}
)
_EDITOR_PATHS = ("/.vscode-server/", "/.vscode-remote/", "/.cursor-server/", "/.windsurf-server/")

# Units of a service manager that hold what other people start: whoever is in one of these has no
# service of its own.
_LAUNCHER_UNITS = re.compile(
    r"user@|app-|session-|run-|(?:ana)?cron|crond|atd|sshd?[.@]|actions\.runner\.|gitlab-runner"
    r"|buildkite-agent|jenkins|vsts\.agent|circleci|act_runner|forgejo-runner|tmux|emacs"
    r"|code-server|gnome-terminal|dbus|getty|serial-getty|console-getty"
)

_INTERPRETERS = re.compile(
    r"(?:python|pypy|node|nodejs|ruby|perl|java|bun|deno)[0-9.]*(?:-dbg|t)?w?"
)
_OPTIONS_WITH_VALUE = frozenset(
    {"-W", "-X", "-r", "--require", "--import", "--loader", "-cp", "--check-hash-based-pycs"}
)
_ENDINGS = (".exe", ".py", ".pyz", ".js", ".cjs", ".mjs", ".rb", ".pl", ".cmd", ".bat")


def program(process: Process) -> str:
    """The program that a process runs, by its command line, in lower case.

    ``python3 -m pytest`` is pytest, ``node /usr/bin/npm`` is npm, and ``npm run dev`` (npm changes
    its title) is npm too. Without a command line it is the kernel's name.
    """
    if not process.argv:
        return _plain(process.name)
    first = process.argv[0]
    if len(process.argv) == 1 and " " in first and "/" not in first.split(" ", 1)[0]:
        first = first.split(" ", 1)[0].rstrip(
            ":"
        )  # a title: "nginx: master process", "npm run dev"
    name = _plain(first)
    return _script(process.argv[1:]) or name if _INTERPRETERS.fullmatch(name) else name


def names(process: Process) -> frozenset[str]:
    """Everything that a process goes by: its program, its first word, and the kernel's name."""
    found = {program(process), _plain(process.name)}
    if process.argv:
        found.add(_plain(process.argv[0]))
    return frozenset(found)


def is_shell(process: Process) -> bool:
    return program(process) in SHELLS


def is_wrapper(process: Process) -> bool:
    return program(process) in WRAPPERS


def is_listed_reaper(process: Process) -> bool:
    known = names(process)
    return bool(known & REAPERS) or any(_WSL_RELAY.fullmatch(name) for name in known)


def is_multiplexer(process: Process) -> bool:
    # tmux calls its server "tmux: server", screen calls its own SCREEN.
    known = names(process) | {process.name.split(":")[0].lower()}
    return bool(known & MULTIPLEXERS) or is_editor_helper(process)


def is_test_runner(process: Process) -> bool:
    if names(process) & TEST_RUNNERS:
        return True
    return program(process) == "manage" and "test" in process.argv  # Django


def is_ci_agent(process: Process) -> bool:
    return bool(names(process) & CI_AGENTS)


def is_idle_agent(process: Process) -> bool:
    return bool(names(process) & IDLE_AGENTS)


def is_container_engine(process: Process) -> bool:
    return bool(names(process) & CONTAINER_ENGINES)


def is_operating_system(process: Process, platform: str) -> bool:
    # Not what an interpreter runs: a script may well be called services.py or system.js.
    known = {_plain(process.name)} | ({_plain(process.argv[0])} if process.argv else set())
    return bool(known & (_SYSTEM_PARTS.get(platform, frozenset()) | _WAYS_IN))


def is_forwarder(process: Process) -> bool:
    """Whether it carries a port elsewhere: ``ssh -L``, ``kubectl port-forward``."""
    return bool(names(process) & FORWARDERS)


def is_editor_helper(process: Process) -> bool:
    """Whether it is an editor's own: VS Code forwards the ports of remote machines and of WSL."""
    return bool(names(process) & EDITOR_HELPERS) or (
        bool(process.argv) and any(part in process.argv[0] for part in _EDITOR_PATHS)
    )


def is_launcher_unit(unit: str) -> bool:
    """Whether a unit holds what other people start, such as ``cron.service`` or ``user@1000.service``."""
    return _LAUNCHER_UNITS.match(unit) is not None


def _script(words: tuple[str, ...]) -> str:
    """What an interpreter runs: the module after ``-m``, the file after ``-jar``, or the script."""
    rest = iter(words)
    for word in rest:
        if word in ("-m", "-jar"):
            return _plain(next(rest, "").removesuffix(".__main__"))
        if word in ("-c", "-e", "--eval", "-p", "-"):
            return ""
        if word in _OPTIONS_WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return _plain(re.sub(r"[/\\]__main__\.py$", "", word))
    return ""


def _plain(word: str) -> str:
    name = re.split(r"[/\\]", word)[-1].removeprefix("-").lower()  # "-bash" is a login shell
    for ending in _ENDINGS:
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending)
    return name
