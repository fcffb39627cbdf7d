"""Who is measured: portfree, and what people use instead. One entry each."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import table
from benchmarks.measure import (
    Axis,
    Contestant,
    Section,
    State,
    calls,
    command,
    frees,
    look,
)
from benchmarks.stage import crowd, orphan, population

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.tools import Tools

PROCESSES, SOCKETS = 1000, 10_000
"""What makes the machine a loaded one."""

# What portfree replaces, without its sudo and made exact; the work is the same. As it stands in
# fixtures it hits every line in which the number occurs anywhere, and cuts pids at a fixed width.
NETSTAT = (
    "netstat -tunlp 2>/dev/null | grep ':{0} ' | awk '{{print $7}}' | sed 's,/.*,,' "
    "| xargs -r kill -9"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is measured."""

    tools: Tools
    project: Path
    """The project of the caller and of the servers: portfree stops orphans of its own only."""
    free: int
    """The first of 1000 free ports in a row."""
    held: int
    """A port that somebody holds all the time."""
    stop: int
    """A port whose servers are stopped."""

    @property
    def python(self) -> str:
        return str(self.tools.with_portfree / "python3")

    @property
    def portfree(self) -> str:
        return str(self.tools.with_portfree / "portfree")

    def holder(self) -> AbstractContextManager[None]:
        return orphan(self.held, self.project)

    def needing(self, program: str, contestant: Contestant) -> Contestant:
        """The contestant, or why it is left out."""
        return replace(contestant, missing=self.tools.missing.get(program, ""))


def states(place: Place) -> list[State]:
    """An idle machine and a loaded one, each with somebody on the held port."""

    @contextmanager
    def loaded() -> Iterator[None]:
        with crowd(processes=PROCESSES, sockets=SOCKETS), place.holder():
            yield

    return [("idle", place.holder), ("loaded", loaded)]


def in_process(place: Place) -> list[Section]:
    """In a process that has portfree loaded, mostly; on an idle machine, and on a loaded one."""
    see = partial(look, folder=place.project, first=place.free)
    see_held = partial(look, folder=place.project, first=place.held)
    first = calls(place.python, place.project, "free", place.free, 0)
    lsof = ["lsof", "-nP", f"-iTCP:{place.held}", "-sTCP:LISTEN", "-t"]
    return [
        Section(
            table.FREE,
            [
                Contestant(table.ONE, see("free", loops=500)),
                Contestant("the first call of a process", first),
                Contestant("a bare bind", see("bind", loops=500)),
                Contestant("reading /proc/net", see("proc_net")),
                Contestant(table.PSUTIL, see("net_connections")),
            ],
        ),
        Section(
            table.FREE_10,
            [
                Contestant("free_ports(10 ports)", see("free", count=10, loops=50)),
                Contestant("10 bare binds", see("bind", count=10, loops=50)),
            ],
        ),
        Section(
            table.FREE_1000,
            [
                Contestant(table.THOUSAND, see("free", count=1000)),
                Contestant(table.BINDS, see("bind", count=1000)),
            ],
        ),
        Section(
            table.HOLDER,
            [
                Contestant(table.LOOK, see_held("held")),
                Contestant(table.PSUTIL, see_held("net_connections")),
                place.needing("lsof", Contestant(table.LSOF, command(lsof, place.project))),
                Contestant("true: the start of a process", command(["true"], place.project)),
                Contestant(table.LINKS, see_held("links")),
            ],
        ),
        Section(
            table.SESSION,
            [
                Contestant(table.GUARDED, see("session", loops=20)),
                Contestant(table.QUIET, see("quiet_session", loops=20)),
            ],
        ),
    ]


def commands(place: Place) -> list[Section]:
    """As a command: on a free port, and on a held one until it can be bound."""
    port, project = place.stop, place.project
    ours = [place.portfree, str(port)]
    netstat = NETSTAT.format(port)
    # As it stands in fixtures: three tries, two seconds each. Once is enough to see that.
    loop = f"for try in 1 2 3; do {netstat}; sleep 2; done"
    peers: list[tuple[str, str, list[str]]] = [
        ("fuser -k 8000/tcp", "fuser", ["fuser", "-k", f"{port}/tcp"]),
        (
            "lsof -ti tcp:8000 | xargs -r kill",
            "lsof",
            ["sh", "-c", f"lsof -ti tcp:{port} | xargs -r kill"],
        ),
        ("netstat | grep | … kill -9, once", "netstat", ["sh", "-c", netstat]),
        (table.LOOP, "netstat", ["sh", "-c", loop]),
        (table.NPM[0], "kill-port", [place.tools.program("kill-port"), str(port)]),
        # Without --silent it asks a question where nobody listens on the port.
        (table.NPM[1], "fkill-cli", [place.tools.program("fkill"), "--silent", f":{port}"]),
    ]
    free = [
        Contestant(table.COMMAND, command(ours, project)),
        Contestant(table.BARE, command([place.python, "-c", "pass"], project)),
    ]
    held = [
        Contestant(table.COMMAND, frees(ours, project, port, says="freed")),
        Contestant(table.FIRST, calls(place.python, project, "held", port, 0)),
        Contestant(table.SECOND, calls(place.python, project, "held", port, 1)),
    ]
    for name, program, words in peers:
        most = 2 if words[-1] == loop else None
        code = 1 if program == "fuser" else 0  # where nobody was to be killed
        for entries, measure in (
            (free, command(words, project, code=code)),
            (held, frees(words, project, port)),
        ):
            entries.append(place.needing(program, Contestant(name, measure, rounds=most)))
    return [
        Section(table.COMMAND_FREE, free),
        Section(table.COMMAND_HELD, held),
    ]


def hooks(place: Place) -> list[Section]:
    """A session of pytest with one test that does nothing, and `portfree run`."""
    plain = _project(place.project / "plain", "")
    ports = f'free_ports = ["{place.free}"]\n'
    quiet = _project(place.project / "quiet", ports + 'free_ports_leaks = "ignore"\n')
    guarded = _project(place.project / "guarded", ports)
    modules = "pytest_session, portfree.api, portfree.run, portfree._system.linux"
    loaded = _project(place.project / "loaded", "", conftest=f"import portfree.{modules}\n")
    without = [str(place.tools.without_portfree / "pytest"), "-q"]
    pytest = [str(place.tools.with_portfree / "pytest"), "-q"]
    run = [place.portfree, "run", str(place.free), "--", "true"]
    return [
        Section(
            table.PYTEST,
            [
                Contestant(table.ABSENT, command(without, plain)),
                Contestant(table.INERT, command(pytest, plain)),
                Contestant(table.LOADED, command(pytest, loaded)),
                Contestant(table.QUIET, command(pytest, quiet)),
                Contestant(table.GUARDED, command(pytest, guarded)),
            ],
        ),
        Section(
            table.RUN,
            [
                Contestant("portfree run 8000 -- true", command(run, place.project)),
                Contestant("true", command(["true"], place.project)),
                Contestant(table.BARE, command([place.python, "-c", "pass"], place.project)),
            ],
        ),
    ]


def by_test(place: Place) -> list[Section]:
    """What looking for leaks costs each test; on an idle machine, and on a loaded one."""
    pytest = [str(place.tools.with_portfree / "pytest"), "-q", "-p", "no:cacheprovider"]
    many = f"import pytest\n\n@pytest.mark.parametrize('n', range({table.TESTS}))\n"
    many += "def test_nothing(n):\n    pass\n"
    ports = f'free_ports = ["{place.free}"]\n'
    sessions = []
    for name, leaks in ((table.GUARDED, "warn"), (table.QUIET, "ignore")):
        folder = place.project / f"many-{leaks}"
        if not folder.exists():
            _project(folder, ports + f'free_ports_leaks = "{leaks}"\n')
            (folder / "test_nothing.py").write_text(many)
        sessions.append(Contestant(name, command(pytest, folder)))
    return [Section(table.PER_TEST, sessions)]


def growth(place: Place) -> list[Axis]:
    see = partial(look, folder=place.project, first=place.free)
    see_held = partial(look, folder=place.project, first=place.held)

    def lsof(first: int, last: int) -> Contestant:
        words = ["lsof", "-nP", f"-iTCP:{first}-{last}", "-sTCP:LISTEN", "-t"]
        code = 0 if first == place.held else 1
        found = Contestant("lsof", command(words, place.project, code=code))
        return place.needing("lsof", found)

    @contextmanager
    def processes(count: int) -> Iterator[int]:
        with crowd(processes=count), place.holder():
            yield population()["processes"]

    @contextmanager
    def sockets(count: int) -> Iterator[int]:
        with crowd(sockets=count), place.holder():
            yield population()["sockets"]

    def on_this_machine(_: int) -> list[Contestant]:
        return [
            Contestant("free_ports, free port", see("free", loops=200)),
            Contestant("free_ports, held port", see_held("held")),
            Contestant("bare bind", see("bind", loops=200)),
            Contestant("reading /proc/net", see("proc_net")),
            Contestant("psutil.net_connections", see_held("net_connections")),
            lsof(place.held, place.held),
        ]

    def of_so_many(count: int) -> list[Contestant]:
        loops = max(1, 200 // count)
        return [
            Contestant("free_ports, free port", see("free", count=count, loops=loops)),
            Contestant("bare bind", see("bind", count=count, loops=loops)),
            Contestant("reading /proc/net", see("proc_net", count=count)),
            Contestant("psutil.net_connections", see("net_connections", count=count)),
            lsof(place.free, place.free + count - 1),
        ]

    return [
        Axis(
            "processes on the machine",
            (0, 100, 300, 1000),
            processes,
            on_this_machine,
        ),
        Axis(
            "TCP sockets on the machine",
            (0, 100, 1000, 10_000),
            sockets,
            on_this_machine,
        ),
        Axis("ports asked for, all free", (1, 10, 100, 1000), nullcontext, of_so_many),
    ]


def _project(folder: Path, settings: str, conftest: str = "") -> Path:
    folder.mkdir()
    (folder / "conftest.py").write_text(conftest)  # all have one, since one of them has
    (folder / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{settings}")
    (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    return folder
