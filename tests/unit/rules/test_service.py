"""Rule service: a service manager keeps it, and would start it again."""

from __future__ import annotations

import pytest

from helpers.builders import below, case, context, holder, orphan, scene
from helpers.plain_processes import INIT, OUR_SHELL, USER_MANAGER, process
from helpers.scenes import AGENT, GITLAB, OTHER_STEP, STEP
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree.model import SCOPES, Scope

SERVICES = [
    case("systemd", "linux", orphan(unit="nginx.service"), "systemctl stop nginx.service"),
    case(
        "systemd, of the user",
        "linux",
        holder(process(2000, unit="shop.service"), USER_MANAGER, INIT),
        "systemctl --user stop shop.service",
    ),
    case(
        "systemd, a name that a shell would change",
        "linux",
        orphan(unit=r"my\x2dshop.service"),
        r"systemctl stop 'my\x2dshop.service'",
    ),
    case("systemd-run", "linux", orphan(unit="run-u42.service"), "systemctl stop run-u42.service"),
    case(
        "Jenkins itself, which is more than an agent",
        "linux",
        orphan("java -jar jenkins.war", unit="jenkins.service"),
        "systemctl stop jenkins.service",
    ),
    case(
        "Emacs itself, whose unit holds what others start",
        "linux",
        holder(process(2000, "emacs --daemon", unit="emacs.service"), USER_MANAGER, INIT),
        "systemctl --user stop emacs.service",
    ),
    case(
        "launchd",
        "darwin",
        holder(process(2000, unit="homebrew.mxcl.redis"), process(1, "launchd")),
        "launchctl bootout gui/$UID/homebrew.mxcl.redis (or: brew services stop)",
    ),
    case(
        "launchd, an application",
        "darwin",
        holder(process(2000, unit="application.com.shop.App.1.2"), process(1, "launchd")),
        "quit that application",
    ),
    case(
        "Windows",
        "win32",
        holder(process(2000, unit="My Shop", ppid=None)),
        'as an administrator: sc.exe stop "My Shop"',
    ),
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("platform", "found", "instead"), SERVICES)
def test_service(platform: str, found: Holder, instead: str, scope: Scope) -> None:
    verdict = judge(found, context(platform=platform, scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "service")
    assert verdict.reason == f"it is the service {found.process.unit}"
    assert verdict.instead == instead


STEPS = [
    case("beside ours", below(OTHER_STEP, AGENT, INIT), ("keep", "live-run")),
    case("ours itself", below(STEP, AGENT, INIT), ("stop", "mine")),
    case("one that is over: adopted", below(INIT), ("stop", "orphan")),
]


@pytest.mark.parametrize(("found", "verdict"), STEPS)
def test_a_server_of_another_step_of_our_own_ci_job(
    found: Holder, verdict: tuple[str, str]
) -> None:
    judged = judge(found, context("pytest", STEP, AGENT, INIT, scope="mine"))

    assert (judged.action, judged.rule) == verdict
    if verdict[0] == "keep":
        assert "another step of this CI job, which goes on" in judged.reason


def test_an_agent_is_a_service_even_to_who_may_stop_live_runs() -> None:
    agent = holder(GITLAB._replace(unit="gitlab-runner.service"), INIT)

    assert judge(agent, context(scope="mine")).rule == "live-run"
    assert judge(agent, context(scope="any")).rule == "service"


UNITS = [
    *("user@1000.service", "app-shop@1.service", "cron.service", "atd.service", "sshd.service"),
    *("actions.runner.me-shop.a.service", "gitlab-runner.service", "buildkite-agent.service"),
]


@pytest.mark.parametrize("unit", UNITS)
def test_what_somebody_started_by_way_of_a_unit_is_no_service(unit: str) -> None:
    assert judge(orphan(unit=unit), context()).rule == "orphan"


NOT_SERVICE = [
    scene("no unit", holder(), "orphan"),
    scene("our own unit", orphan(unit="ci.service"), "orphan", context(unit="ci.service")),
    scene(
        "typed in a terminal inside of a service",
        holder(
            process(2000, unit="cockpit.service"),
            OUR_SHELL._replace(unit="cockpit.service"),
            "cockpit-bridge",
            INIT,
        ),
        "attended",
    ),
]


@pytest.mark.parametrize(("found", "asked", "rule"), NOT_SERVICE)
def test_not_service(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule
