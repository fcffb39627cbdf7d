"""Rule container: another container, or the main service of our own one."""

from __future__ import annotations

import pytest

from helpers.builders import below, case, context, holder, orphan, scene, socket
from helpers.plain_processes import INIT, ROOT, process
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree.model import SCOPES, Port, Scope

PROXY = process(2000, "docker-proxy -host-port 8000", owner=ROOT)
CONTAINER_ID = "4f1c0ffee" + "0" * 55


CONTAINERS = [
    *(
        case(
            name,
            orphan(name, owner=ROOT),
            f"{name} (pid 2000) publishes the port for a container",
            "podman ps, then: podman stop NAME"
            if engine == "podman"
            else "docker ps --filter publish=8000, then: docker stop NAME",
        )
        for name, engine in (
            ("docker-proxy", "docker"),
            ("dockerd", "docker"),
            ("containerd-shim", "docker"),
            ("com.docker.backend", "docker"),
            ("orbstack", "docker"),
            ("colima", "docker"),
            ("conmon", "podman"),
            ("rootlessport", "podman"),
            ("slirp4netns", "podman"),
            ("pasta", "podman"),
        )
    ),
    case(
        "an engine that tells the container",
        holder(PROXY, INIT, engine="shop-web-1 (image nginx, compose project shop)"),
        "published by container shop-web-1 (image nginx, compose project shop)",
        "docker stop shop-web-1",
    ),
    case(
        "podman",
        holder("rootlessport", INIT, engine="web (image nginx)"),
        "published by container web (image nginx)",
        "podman stop web",
    ),
    case(
        "a process in a container",
        orphan(container=CONTAINER_ID),
        "runs in another container (4f1c0ffee000)",
        "stop that container: docker stop 4f1c0ffee000, or the same with podman",
    ),
    case(
        "a process in a container that its engine names",
        holder(process(2000, container=CONTAINER_ID), INIT, engine="web (image nginx)"),
        "runs in container web (image nginx)",
        "docker stop web",
    ),
    case(
        "a process in a container of podman",
        holder(process(2000, container=CONTAINER_ID), "conmon", INIT, engine="web (image nginx)"),
        "runs in container web (image nginx)",
        "podman stop web",
    ),
    case(
        "a process in a container, where the system does not tell",
        holder(process(2000), process(9, f"containerd-shim-runc-v2 -id {CONTAINER_ID}"), INIT),
        "runs in another container (4f1c0ffee000)",
        "stop that container: docker stop 4f1c0ffee000, or the same with podman",
    ),
    case(
        "a process in a container of which nothing tells",
        holder(process(2000), "conmon", INIT),
        "runs in another container (?)",
        "stop that container",
    ),
    case(
        "a port for UDP",
        holder(PROXY, INIT, sockets=[socket(1, Port(8125, "udp"))]),
        "docker-proxy (pid 2000) publishes the port for a container",
        "docker ps --filter publish=8125/udp, then: docker stop NAME",
    ),
    case(
        "a process in a container of another kind",
        orphan(container="build-machine"),
        "runs in another container (build-machine)",
        "stop that container",
    ),
    case(
        "a process in a container that does not tell its name",
        orphan(container="?"),
        "runs in another container (?)",
        "stop that container",
    ),
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("found", "says", "instead"), CONTAINERS)
def test_container(found: Holder, says: str, instead: str, scope: Scope) -> None:
    verdict = judge(found, context(scope=scope, privileged=True))

    assert (verdict.action, verdict.rule) == ("keep", "container")
    assert (verdict.reason, verdict.instead) == (says, instead)


# We came in by `docker compose exec web pytest`: our ancestry ends outside, and not at pid 1.
PUT_IN = context(process(900, "pytest", ppid=0), main_service=frozenset({1, 7}))
FIRST = process(1, "tini -- gunicorn app")


MAIN_SERVICES = [
    case("pid 1 itself", holder(process(1, "gunicorn app"))),
    case("the child of pid 1", holder(process(7, "gunicorn app"), FIRST)),
    case("a worker of it", below(process(7, "gunicorn app"), FIRST)),
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("found", MAIN_SERVICES)
def test_the_main_service_of_our_container_is_kept(found: Holder, scope: Scope) -> None:
    verdict = judge(found, PUT_IN._replace(scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "container")
    assert verdict.reason == "it is the main service of this container"


NOT_CONTAINER = [
    scene("an orphan beside the main service", below(FIRST), "orphan", PUT_IN),
    scene(
        "the main service, for who descends from pid 1",
        holder(process(7, "gunicorn app"), FIRST),
        "orphan",
        context("pytest", FIRST),
    ),
    scene(
        "who was started beside us, seen from a container without a pid namespace",
        below("conmon", INIT),
        "attended",
        context("pytest", "conmon", INIT),
    ),
    scene("who uses a container", orphan("docker run x"), "orphan"),
]


@pytest.mark.parametrize(("found", "asked", "rule"), NOT_CONTAINER)
def test_not_container(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule
