"""Rule protected: what belongs to the system, or only carries a port elsewhere."""

from __future__ import annotations

import pytest

from helpers.builders import case, context, holder, orphan, socket
from helpers.plain_processes import INIT, USER_MANAGER, process
from portfree._core.ancestry import Holder
from portfree._core.judge import judge
from portfree.model import SCOPES, Port, Scope

PROTECTED = [
    case(
        "linux: systemd as pid 1",
        "linux",
        holder(INIT),
        "systemctl list-sockets names its socket unit: systemctl stop that",
    ),
    case("linux: another pid 1", "linux", holder(process(1, "app")), "another port"),
    case(
        "linux: systemd --user",
        "linux",
        holder(USER_MANAGER, INIT),
        "systemctl --user list-sockets",
    ),
    case("linux: resolved", "linux", holder(process(9, "systemd-resolved"), INIT), "another port"),
    case("linux: sshd", "linux", holder(process(9, "sshd -D"), INIT), "another port"),
    case(
        "linux: VS Code's server",
        "linux",
        holder(process(9, "/home/me/.vscode-server/bin/1/node x.js"), INIT),
        "the editor's list of forwarded ports",
    ),
    case("darwin: launchd", "darwin", holder(process(1, "/sbin/launchd")), "another port"),
    case("darwin: a part", "darwin", holder(process(9, "rapportd"), INIT), "another port"),
    case(
        "darwin: AirPlay on 5000",
        "darwin",
        holder(process(9, "ControlCenter"), INIT, sockets=[socket(1, Port(5000))]),
        "turn AirPlay Receiver off",
    ),
    case(
        "darwin: AirPlay on 7000, by its short name",
        "darwin",
        holder(process(9, "ControlCe"), INIT, sockets=[socket(1, Port(7000))]),
        "turn AirPlay Receiver off",
    ),
    case(
        "darwin: ControlCenter on another port",
        "darwin",
        holder(process(9, "ControlCenter"), INIT),
        "another port",
    ),
    case("win32: System", "win32", holder(process(4, "System")), "netsh http show servicestate"),
    case("win32: pid 0", "win32", holder(process(0, "Idle")), "netsh"),
    case("win32: svchost", "win32", holder(process(9, "svchost.exe", ppid=None)), "another port"),
    case("win32: WSL", "win32", holder(process(9, "wslrelay.exe", ppid=None)), "another port"),
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("platform", "found", "instead"), PROTECTED)
def test_protected(platform: str, found: Holder, instead: str, scope: Scope) -> None:
    # We do not descend from pid 1, or it would be one of us.
    outside = process(900, "portfree 8000", ppid=0)
    verdict = judge(found, context(outside, platform=platform, scope=scope, privileged=True))

    assert (verdict.action, verdict.rule) == ("keep", "protected")
    assert instead in verdict.instead


NOT_PROTECTED = [
    case(
        "a script called services.py",
        "win32",
        holder(process(2000, "python services.py", ppid=None)),
    ),
    case("a script called init.py", "linux", orphan("python init.py")),
    case("a script called code.py", "linux", orphan("python code.py")),
    case("Linux: a program called registry", "linux", orphan("registry")),
    case("Linux: pid 4", "linux", holder(process(4), INIT)),
    case("Linux: a program called rapportd", "linux", holder(process(9, "rapportd"), INIT)),
    case("Linux: ControlCenter", "linux", holder(process(9, "controlce"), INIT)),
    case("Windows: pid 5", "win32", holder(process(5, ppid=None))),
    case(
        "macOS: a server on 5000",
        "darwin",
        holder(process(), INIT, sockets=[socket(1, Port(5000))]),
    ),
    case("ssh-agent", "linux", orphan("ssh-agent")),
]


@pytest.mark.parametrize(("platform", "found"), NOT_PROTECTED)
def test_not_protected(platform: str, found: Holder) -> None:
    assert judge(found, context(platform=platform)).rule == "orphan"
