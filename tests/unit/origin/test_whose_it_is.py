"""What an origin means: whose a holder is, and the narrowest scope that stops it."""

from __future__ import annotations

import pytest
from _pytest.mark.structures import ParameterSet

from helpers.builders import alive, below, beside, born, context, holder, orphan, run_id
from helpers.plain_processes import (
    ELSEWHERE,
    HOME,
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    PROJECT,
    THEIR_PYTEST,
    THEIR_SHELL,
    fork,
    process,
)
from helpers.scenes import (
    AT_WORK,
    COPY,
    DAEMON,
    EMULATOR,
    ENDING,
    EXECNET,
    FOLDER,
    FORKSERVER,
    IN_A_PORTFREE_RUN,
    IN_A_PTY,
    IN_A_TEST,
    IN_THE_WINDOW,
    INNER,
    KARMA,
    KILLED,
    LOCKED,
    MUX,
    NOW,
    OURS,
    PORTFREE_RUN,
    REMOVED,
    SCRIPT,
    THEIRS,
    TODAY,
    TODAY_AT_WORK,
    UNLOCKED,
    VERSION,
    WINDOW,
    narrowest,
    there,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree.model import Advice


def story(
    name: str, found: Holder, rule: str, stopped: str = "", asked: Context | None = None
) -> ParameterSet:
    """A scene, the rule that decides it, and the narrowest scope in which it is stopped."""
    plainly = {"live-run": "any", "attended": "project"}.get(rule, "orphans")
    return pytest.param(found, asked or context(), rule, stopped or plainly, id=name)


FORWARD = "ssh -NL 8000:db:5432 build.example"
KUBECTL = "kubectl port-forward svc/db 8000:5432"


STORIES = [
    # Forks of test runners
    story(
        "multiprocessing: the child of a killed pytest, elsewhere",
        holder(COPY._replace(cwd=ELSEWHERE), INIT, project=ELSEWHERE),
        "left-behind",
    ),
    story(
        "multiprocessing: the child of a pytest that lives",
        holder(COPY, THEIR_PYTEST, THEIR_SHELL, INIT),
        "live-run",
    ),
    story("a daemon of a pytest that lives", holder(COPY, INIT), "live-run", asked=AT_WORK),
    story(
        "the server of a forked child of a killed pytest",
        below(fork(THEIR_PYTEST, 710), INIT),
        "left-behind",
    ),
    story(
        "a fork of a pytest that has ended keeps nothing else",
        orphan(marks=IN_A_TEST),
        "left-behind",
        asked=beside(COPY._replace(pid=710, start=710), INIT),
    ),
    story(
        "a fork of a pytest that has ended keeps no other fork of it",
        holder(COPY, INIT),
        "left-behind",
        asked=beside(fork(THEIR_PYTEST, 710), INIT),
    ),
    story(
        "a child of a forkserver whose pytest was killed",
        holder(fork(FORKSERVER._replace(marks=IN_A_TEST), 2000), INIT),
        "left-behind",
    ),
    story(
        "the server of an xdist worker whose controller was killed",
        holder(born(VERSION | IN_A_TEST), process(710, EXECNET, marks=VERSION), INIT),
        "left-behind",
    ),
    # Redis wipes its environment
    story("redis: its pytest lives", there(LOCKED), "live-run", asked=TODAY),
    story("redis: its pytest was killed", there(KILLED), "left-behind", asked=TODAY),
    story("redis: its pytest has ended", there(UNLOCKED), "left-behind", asked=TODAY),
    story("redis: its folder is gone", there(REMOVED), "left-behind", asked=TODAY),
    story(
        "redis: its folder is gone, and some pytest works",
        there(REMOVED),
        "live-run",
        asked=TODAY_AT_WORK,
    ),
    story(
        "redis: another one has the pid of its pytest",
        there(LOCKED._replace(process=process(700, "vim", started=NOW - 10))),
        "left-behind",
        asked=TODAY,
    ),
    story(
        "redis: in the project, and some pytest works",
        holder(DAEMON, INIT),
        "live-run",
        asked=AT_WORK,
    ),
    story("redis: in the project, and nobody works", holder(DAEMON, INIT), "orphan"),
    story(
        "redis: of the system",
        holder(DAEMON._replace(cwd="/var/lib/redis"), INIT, project=None),
        "attended",
        stopped="mine",
    ),
    story(
        "redis: it came up during our run",
        holder(DAEMON._replace(cwd="/"), INIT, project=None),
        "own-run",
        asked=ENDING,
    ),
    # A person who looks into an old folder of pytest
    story(
        "a person in an old folder of pytest: a server",
        there(UNLOCKED, born({}, cwd=FOLDER), OUR_SHELL._replace(cwd=FOLDER), INIT),
        "attended",
        stopped="mine",
        asked=TODAY,
    ),
    story(
        "a person in an old folder of pytest: a server with nohup",
        there(UNLOCKED, born({}, cwd=FOLDER, session=800), OUR_SHELL, INIT),
        "attended",
        stopped="mine",
        asked=TODAY,
    ),
    story(
        "a person in an old folder of pytest: the shell itself, which has inherited a socket",
        there(UNLOCKED, OUR_SHELL._replace(cwd=FOLDER), INIT),
        "attended",
        stopped="mine",
        asked=context("portfree 8000", process(810, "zsh", terminal="pts/9"), INIT),
    ),
    # Servers that are called like test runners
    story("karma of a killed test", holder(KARMA._replace(marks=IN_A_TEST), INIT), "left-behind"),
    story(
        "karma of a pytest that lives", holder(KARMA, THEIR_PYTEST, THEIR_SHELL, INIT), "live-run"
    ),
    story("karma by hand", holder(KARMA, OUR_SHELL, INIT), "live-run"),
    story("karma, adopted", holder(KARMA, INIT), "orphan"),
    story(
        "karma, adopted, elsewhere",
        holder(KARMA._replace(cwd=ELSEWHERE), INIT),
        "attended",
        stopped="mine",
    ),
    story(
        "playwright run-server by hand",
        holder("node /x/.bin/playwright run-server", OUR_SHELL, INIT),
        "attended",
    ),
    story(
        "playwright run-server of a killed test",
        orphan("node /x/.bin/playwright run-server", marks=IN_A_TEST),
        "left-behind",
    ),
    story("playwright run-server, adopted", orphan("playwright run-server"), "orphan"),
    story("a pytest that goes on, adopted", holder(THEIR_PYTEST, INIT), "live-run"),
    # Terminals that were made in a test
    story(
        "script(1) in a killed test", holder(IN_THE_WINDOW, IN_A_PTY, SCRIPT, INIT), "left-behind"
    ),
    story(
        "script(1) without marks",
        holder(
            *(process(2000, session=1990, terminal="pts/7"), IN_A_PTY._replace(marks={})),
            *(SCRIPT._replace(marks={}), INIT),
        ),
        "orphan",
    ),
    story(
        "script(1) by hand",
        holder(
            *(process(2000, session=1990, terminal="pts/7"), WINDOW._replace(marks={})),
            *(process(1980, "script"), OUR_SHELL, INIT),
        ),
        "attended",
    ),
    story(
        "xterm in a killed test",
        holder(IN_THE_WINDOW, WINDOW, process(1980, "xterm", marks=IN_A_TEST), INIT),
        "attended",
    ),
    story(
        "another terminal emulator in a killed test",
        holder(IN_THE_WINDOW, WINDOW, EMULATOR, INIT),
        "attended",
    ),
    # What forwards a port
    *(
        story(
            f"{command.split()[0]}: a forward of a killed test",
            orphan(command, marks=IN_A_TEST, cwd=HOME),
            "left-behind",
        )
        for command in (FORWARD, KUBECTL)
    ),
    *(
        story(
            f"{command.split()[0]}: a forward that somebody left running here",
            orphan(command),
            "attended",
        )
        for command in (FORWARD, KUBECTL)
    ),
    *(
        story(
            f"{command.split()[0]}: a forward that somebody left running elsewhere",
            orphan(command, cwd=HOME),
            "attended",
            stopped="mine",
        )
        for command in (FORWARD, KUBECTL)
    ),
    *(
        story(
            f"{command.split()[0]}: a forward at a terminal",
            holder(process(2000, command, session=800, terminal="pts/1"), OUR_SHELL, INIT),
            "attended",
        )
        for command in (FORWARD, KUBECTL)
    ),
    story(
        "ssh: a session with a forward",
        holder(
            process(2000, "ssh -L 8000:db:5432 build.example", session=800, terminal="pts/1"),
            OUR_SHELL,
            INIT,
        ),
        "attended",
        stopped="never",
    ),
    story(
        "ssh: what other sessions share",
        holder(MUX, INIT, project=None),
        "attended",
        stopped="never",
    ),
    # Who asks to be left running
    *(
        story(f"{name}={value}: an orphan", orphan(marks={name: value}), "attended")
        for name, value in (
            ("PORTFREE_KEEP", "1"),
            ("BUILD_ID", "dontKillMe"),
            ("JENKINS_NODE_COOKIE", "dontKillMe"),
            ("RUNNER_TRACKING_ID", ""),
        )
    ),
    *(
        story(
            f"{name}={value}: of a killed test",
            orphan(marks={name: value} | IN_A_TEST, cwd=ELSEWHERE),
            "attended",
        )
        for name, value in (
            ("PORTFREE_KEEP", "1"),
            ("BUILD_ID", "dontKillMe"),
            ("JENKINS_NODE_COOKIE", "dontKillMe"),
            ("RUNNER_TRACKING_ID", ""),
        )
    ),
    story(
        "PORTFREE_KEEP=1: of our own run",
        orphan(marks={"PORTFREE_KEEP": "1"} | run_id(OURS)),
        "attended",
        asked=ENDING,
    ),
    story(
        "PORTFREE_KEEP=1: our child",
        holder(born({"PORTFREE_KEEP": "1"}), OUR_PYTEST, OUR_SHELL, INIT),
        "attended",
    ),
    story(
        "PORTFREE_KEEP=1: said by its parent",
        below(process(9, "sh x", marks={"PORTFREE_KEEP": "1"}), INIT),
        "attended",
    ),
    story("PORTFREE_KEEP=0", orphan(marks={"PORTFREE_KEEP": "0"}), "orphan"),
    story("BUILD_ID=12", orphan(marks={"BUILD_ID": "12"}), "orphan"),
    story(
        "an empty RUNNER_TRACKING_ID, and so is ours (nektos/act)",
        orphan(marks={"RUNNER_TRACKING_ID": ""}),
        "orphan",
        asked=context(OUR_PYTEST._replace(marks={"RUNNER_TRACKING_ID": ""}), OUR_SHELL, INIT),
    ),
    # Places
    story(
        "a package of a monorepo",
        holder(born({}, cwd=f"{PROJECT}/packages/web"), INIT, repository=PROJECT),
        "orphan",
    ),
    story(
        "a package that has a pyproject.toml, and there is no repository",
        holder(born({}, cwd=f"{PROJECT}/packages/web"), INIT, project=f"{PROJECT}/packages/web"),
        "orphan",
    ),
    story(
        "a repository below ours",
        holder(
            born({}, cwd=f"{PROJECT}/vendor/x"),
            INIT,
            project=f"{PROJECT}/vendor/x",
            repository=f"{PROJECT}/vendor/x",
        ),
        "attended",
        stopped="mine",
    ),
    story(
        "a repository below ours, and what a killed test has left there",
        holder(
            born(IN_A_TEST, cwd=f"{PROJECT}/vendor/x"),
            INIT,
            project=f"{PROJECT}/vendor/x",
            repository=f"{PROJECT}/vendor/x",
        ),
        "left-behind",
    ),
    story("attended, in our project", below(OUR_SHELL, INIT), "attended"),
    story(
        "attended, in another project",
        holder(born({}, cwd=ELSEWHERE), OUR_SHELL, INIT),
        "attended",
        stopped="mine",
    ),
    story("a live run in our project", below(THEIR_PYTEST, THEIR_SHELL, INIT), "live-run"),
    # portfree run, which adopts
    story(
        "portfree run around us: what an inner run has left",
        holder(born(run_id(OURS, INNER), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
        "left-behind",
        asked=IN_A_PORTFREE_RUN,
    ),
    story(
        "portfree run around us: what an inner run that goes on has started",
        holder(born(run_id(OURS, INNER)), PORTFREE_RUN, THEIR_SHELL, INIT, live_runs=alive(INNER)),
        "live-run",
        asked=IN_A_PORTFREE_RUN,
    ),
    story(
        "portfree run beside us: what an inner run has left",
        holder(
            born(run_id(THEIRS, INNER)), PORTFREE_RUN, THEIR_SHELL, INIT, live_runs=alive(THEIRS)
        ),
        "live-run",
    ),
    story(
        "portfree run around us: what a killed test has left",
        holder(born(run_id(OURS) | IN_A_TEST), PORTFREE_RUN, THEIR_SHELL, INIT),
        "left-behind",
        asked=IN_A_PORTFREE_RUN,
    ),
    story(
        "portfree run around us: what has gone into a session of its own",
        holder(born(run_id(OURS)), PORTFREE_RUN, THEIR_SHELL, INIT),
        "orphan",
        asked=IN_A_PORTFREE_RUN,
    ),
    story(
        "portfree run around us: what is in its session",
        holder(born(run_id(OURS), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
        "attended",
        asked=IN_A_PORTFREE_RUN,
    ),
    # Wrappers
    *(
        story(f"{command}: adopted", below(process(9, command), INIT), "orphan")
        for command in (
            *("bun run dev", "bunx vite", "deno task dev", "go run .", "cargo run --release"),
            *("dotnet run", "pixi run dev", "mise run dev", "just dev", "task dev"),
            *("node /x/.bin/concurrently 'npm:dev'", "python /x/bin/honcho start"),
            *("node /x/.bin/npm-run-all -p dev", "node /x/.bin/run-p dev", "foreman start"),
        )
    ),
    *(
        story(
            f"{command}: with a terminal, adopted",
            holder(
                process(2000, session=800, terminal="pts/1"),
                process(9, command, session=800, terminal="pts/1"),
                INIT,
            ),
            "attended",
        )
        for command in (
            "node /x/.bin/concurrently 'npm:dev'",
            "honcho start",
            "foreman start",
            "run-s dev",
        )
    ),
    *(
        story(
            f"{command}: it looks after what it started",
            below(process(9, command), INIT),
            "attended",
        )
        for command in (
            "bun server.ts",
            "deno run server.ts",
            "go tool x",
            "cargo watch -x run",
            "dotnet watch run",
        )
    ),
]


@pytest.mark.parametrize(("found", "asked", "rule", "stopped"), STORIES)
def test_whose_it_is(found: Holder, asked: Context, rule: str, stopped: str) -> None:
    assert judge(found, asked).rule == rule
    assert narrowest(found, asked) == stopped


def test_a_runner_that_was_adopted_says_how_old_it_is() -> None:
    verdict = judge(holder(THEIR_PYTEST._replace(started=NOW - 3 * 3_600), INIT), context(time=NOW))

    assert verdict.reason == (
        "in use by pytest (pid 700, adopted, 3 h old: nobody waits for its result) in ~/shop"
    )
    assert verdict.advice == Advice()


def test_a_runner_that_was_adopted_may_not_tell_its_age() -> None:
    verdict = judge(below(THEIR_PYTEST, INIT), context(time=NOW))

    assert "in use by pytest (pid 700, adopted: nobody waits" in verdict.reason


def test_an_editor_that_is_connected_is_somebody_at_work() -> None:
    editor = holder(process(500, "emacs --daemon"), INIT, sockets=())

    verdict = judge(holder(users=(editor,)), context())

    assert (verdict.action, verdict.rule) == ("keep", "attended")
