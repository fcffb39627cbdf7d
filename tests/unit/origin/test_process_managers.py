"""Process managers: they serve several projects, and start again what is stopped."""

from __future__ import annotations

import pytest

from helpers.builders import below, born, case, context, holder
from helpers.plain_processes import INIT, OUR_PYTEST, OUR_SHELL, process
from helpers.scenes import IN_A_TEST, PM2, narrowest
from portfree._core.judge import judge
from portfree._system.interface import Process

MANAGERS = [
    case("pm2", PM2, "pm2 stop server (pm2 list names them)"),
    case(
        "forever",
        process(9, "node /x/forever/bin/monitor server.js"),
        "forever stop server (forever list names them)",
    ),
    case(
        "supervisord",
        process(9, "python /usr/bin/supervisord -n"),
        "supervisorctl stop server (supervisorctl status names them)",
    ),
    case(
        "circusd",
        process(9, "python /x/bin/circusd x.ini"),
        "circusctl stop server (circusctl status names them)",
    ),
    case("overmind", process(9, "overmind start"), "overmind stop server (overmind ps names them)"),
    case(
        "process-compose",
        process(9, "process-compose up"),
        "process-compose process stop server (process-compose list names them)",
    ),
    case("runsv", process(9, "runsv web"), "sv down web"),
    case("s6", process(9, "s6-supervise /run/service/web"), "s6-svc -d /run/service/web"),
    case("monit", process(9, "monit -c x"), "monit stop server (monit summary names them)"),
    case("god", process(9, "ruby /usr/bin/god -c x"), "god stop server (god status names them)"),
]


@pytest.mark.parametrize(("manager", "advice"), MANAGERS)
def test_what_a_process_manager_looks_after_is_kept(manager: Process, advice: str) -> None:
    for found in (
        below(manager, INIT),
        holder(process(3000, "gunicorn: worker"), process(2000), manager, INIT),
        below(process(8, "sh x.sh"), manager, OUR_SHELL, INIT),
        holder(born(IN_A_TEST), manager, INIT),
    ):
        verdict = judge(found, context())

        assert (verdict.action, verdict.rule) == ("keep", "service")
        assert narrowest(found, context()) == "never"
        assert f"(pid {manager.pid}) looks after it, and would start it again" in verdict.reason
    assert judge(below(manager, INIT), context()).instead == advice


@pytest.mark.parametrize(("manager", "advice"), MANAGERS)
def test_a_process_manager_itself_is_kept(manager: Process, advice: str) -> None:
    verdict = judge(holder(manager, INIT), context())

    assert (verdict.action, verdict.rule) == ("keep", "service")
    assert "is a process manager, which may serve other projects too" in verdict.reason
    assert verdict.instead == advice.replace(" server ", " NAME ")
    assert narrowest(holder(manager, INIT), context()) == "never"


@pytest.mark.parametrize(("manager", "advice"), MANAGERS)
def test_a_process_manager_that_a_killed_test_has_left_is_stopped(
    manager: Process, advice: str
) -> None:
    manager = manager._replace(marks=IN_A_TEST)

    assert advice
    wrapper = process(8, "npm run services", marks=IN_A_TEST)
    for found in (
        holder(manager, INIT),
        holder(born(IN_A_TEST), manager, INIT),
        holder(born(IN_A_TEST), manager, wrapper, INIT),
    ):
        assert judge(found, context())[:2] == ("stop", "left-behind")


def test_what_our_own_process_manager_looks_after_is_attended() -> None:
    manager = process(9, "supervisord -n")
    verdict = judge(below(manager, INIT), context(OUR_PYTEST, manager, INIT))

    assert (verdict.action, verdict.rule) == ("keep", "attended")
    assert verdict.reason == "started by supervisord (pid 9) in ~/shop"


def test_an_app_that_an_interpreter_runs_without_a_name_is_called_name() -> None:
    verdict = judge(holder("python -c 'serve()'", PM2, INIT), context())

    assert verdict.instead == "pm2 stop NAME (pm2 list names them)"
