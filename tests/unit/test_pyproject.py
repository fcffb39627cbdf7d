"""[tool.portfree]: which file is read, what it may say, and what is said if it is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portfree import PortfreeError, PortSpecError
from portfree._core import pyproject
from portfree.model import Port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository, so that no pyproject.toml above the temporary directory can matter."""
    folder = tmp_path / "repository"
    (folder / ".git").mkdir(parents=True)
    return folder


def _write(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pyproject.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_key_is_read(repository: Path) -> None:
    path = _write(
        repository,
        """
        [tool.portfree]
        ports = [8000, "9000-9001", "8125/udp"]
        scope = "mine"
        grace = 5
        wait = 0.5
        on-busy = "fail"
        leaks = "stop"
        """,
    )

    assert pyproject.load(repository) == pyproject.Table(
        path,
        (Port(8000), Port(9000), Port(9001), Port(8125, "udp")),
        {"scope": "mine", "grace": 5.0, "wait": 0.5, "on_busy": "fail", "leaks": "stop"},
    )


def test_every_key_may_be_left_out(repository: Path) -> None:
    path = _write(repository, "[tool.portfree]\n")

    assert pyproject.load(repository) == pyproject.Table(path, (), {})


@pytest.mark.parametrize(
    ("value", "ports"),
    [("8000", [8000]), ('"8000, 8001"', [8000, 8001]), ("[]", []), ('["1-3"]', [1, 2, 3])],
)
def test_ports_are_a_list_or_one_value(repository: Path, value: str, ports: list[int]) -> None:
    _write(repository, f"[tool.portfree]\nports = {value}")

    settings = pyproject.load(repository)

    assert settings is not None
    assert [port.number for port in settings.ports] == ports


# --- which file ----------------------------------------------------------------------------------


def test_the_nearest_file_with_the_table_is_read(repository: Path) -> None:
    _write(repository, "[tool.portfree]\nports = 1")
    _write(repository / "a", "[tool.portfree]\nports = 2")
    _write(repository / "a" / "b", "[tool.other]\nname = 'portfree'")
    (repository / "a" / "b" / "c").mkdir()

    settings = pyproject.load(str(repository / "a" / "b" / "c"))

    assert settings is not None
    assert settings.ports == (Port(2),)
    assert settings.path == repository / "a" / "pyproject.toml"


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_nothing_above_the_root_of_the_repository_is_read(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, "[tool.portfree]\nports = 1")
    inner = tmp_path / "repository" / "src"
    inner.mkdir(parents=True)
    git = tmp_path / "repository" / ".git"
    if kind == "directory":
        git.mkdir()
    else:
        git.write_text("gitdir: elsewhere")  # a worktree or a submodule

    assert pyproject.load(inner) is None


def test_the_root_of_the_repository_itself_is_read(repository: Path) -> None:
    _write(repository, "[tool.portfree]\nports = 1")
    (repository / "src").mkdir()

    assert pyproject.load(repository / "src") is not None


def test_without_a_repository_all_directories_above_are_looked_at(tmp_path: Path) -> None:
    _write(tmp_path, "[tool.portfree]\nports = 1")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)

    assert pyproject.load(inner) is not None


def test_the_search_ends_at_the_root_of_the_file_system(tmp_path: Path) -> None:
    assert pyproject.load(tmp_path.anchor) is None


def test_a_directory_without_any_file_has_no_settings(repository: Path) -> None:
    assert pyproject.load(repository) is None


def test_a_relative_start_is_taken_from_the_current_directory(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(repository, "[tool.portfree]\n")
    monkeypatch.chdir(repository)

    assert pyproject.load(".") == pyproject.Table(path, (), {})


def test_a_file_that_never_names_the_table_is_not_parsed(repository: Path) -> None:
    _write(repository, "this is [[ no TOML, and none of our business")

    assert pyproject.load(repository) is None


@pytest.mark.parametrize(
    "text", ["# tool.portfree\n", "# tool.portfree\ntool = 1\n", "[tool.a]\nb = 'tool.portfree'\n"]
)
def test_a_file_that_names_the_table_and_has_none_is_passed_by(repository: Path, text: str) -> None:
    _write(repository, "[tool.portfree]\nports = 1")
    _write(repository / "inner", text)

    settings = pyproject.load(repository / "inner")

    assert settings is not None
    assert settings.path == repository / "pyproject.toml"


def test_a_directory_of_that_name_is_no_file(repository: Path) -> None:
    (repository / "pyproject.toml").mkdir()

    assert pyproject.load(repository) is None


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("scope = 'all'", "scope is 'all': choose one of orphans, project, mine, any"),
        ("scope = 1", "scope is 1: choose one of orphans, project, mine, any"),
        ("grace = -1", "grace is -1: give seconds from 0 to 86400 (one day)"),
        ("grace = nan", "grace is nan: give seconds from 0 to 86400 (one day)"),
        ("wait = inf", "wait is inf: give seconds from 0 to 86400 (one day)"),
        ("wait = '3'", "wait is '3': give a number of seconds, such as 3 or 0.5"),
        ("grace = true", "grace is True: give a number of seconds, such as 3 or 0.5"),
        ("on-busy = 'ignore'", "on-busy is 'ignore': choose one of warn, fail"),
        ("leaks = false", "leaks is False: choose one of ignore, warn, stop, fail"),
        ("on_busy = 'fail'", "has no key 'on_busy': did you mean on-busy?"),
        ("port = 8000", "has no key 'port': did you mean ports?"),
        (
            "colour = 1",
            (
                "has no key 'colour': its keys are ports, scope, grace, wait, on-busy, leaks, "
                "leaks-ignore"
            ),
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_key(
    repository: Path, line: str, message: str
) -> None:
    path = _write(repository, f"[tool.portfree]\n{line}\n")

    with pytest.raises(PortfreeError) as caught:
        pyproject.load(repository)

    assert str(caught.value) == f"{path}: [tool.portfree] {message}"
    assert not isinstance(caught.value, PortSpecError)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("[0]", "0 is not a port"),
        ("['8000x']", "'8000x' is not a port"),
        ("''", "'' names no port"),
        ("['1-65535']", "'1-65535' spans 65535 ports"),
        ("true", "True (bool) is not a port"),
        ("[8000, false]", "False (bool) is not a port"),
        ("[8000.0]", "8000.0 (float) is not a port"),
        ("[[8000]]", "[8000] (list) is not a port"),
        ("8000.5", "8000.5 is no list"),
        ("{a = 1}", "{'a': 1} is no list"),
        ("2026-01-01", "datetime.date(2026, 1, 1) is no list"),
    ],
)
def test_what_is_no_port_is_named_with_its_file(repository: Path, value: str, named: str) -> None:
    path = _write(repository, f"[tool.portfree]\nports = {value}\n")

    with pytest.raises(PortSpecError) as caught:
        pyproject.load(repository)

    assert str(caught.value).startswith(f"{path}: [tool.portfree] ports: {named}")
    assert "free_ports(" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.portfree]\nports = [8000", "at end of document"),
        ("[tool.portfree\n", "at line 1"),
        ("[tool.portfree]\nports = 1\nports = 2\n", "at line 3"),
        (b"[tool.portfree]\n# \xff\n", "utf-8"),
        ("[tool.portfree]\nports = " + "[" * 5_000, "recursion"),
    ],
    ids=["open list", "open table", "twice", "not UTF-8", "deep"],
)
def test_broken_toml_is_one_line_that_names_the_file(
    repository: Path, text: str | bytes, said: str
) -> None:
    path = _write(repository, text)

    with pytest.raises(PortfreeError) as caught:
        pyproject.load(repository)

    assert str(caught.value).startswith(f"{path} is not valid TOML: ")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tool.portfree = 8000", "8000"),
        ("[[tool.portfree]]", "[{}]"),
        ("[tool]\nportfree = 3", "3"),
    ],
)
def test_a_value_that_is_no_table_is_refused(repository: Path, text: str, value: str) -> None:
    path = _write(repository, text)

    with pytest.raises(PortfreeError) as caught:
        pyproject.load(repository)

    assert (
        str(caught.value) == f"{path}: tool.portfree is {value}: make it a table, [tool.portfree]"
    )


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_said_so(repository: Path, codec: str) -> None:
    mark = "" if codec == "utf-16" else "\ufeff"
    path = _write(repository, f"{mark}[tool.portfree]\nports = 1\n".encode(codec))

    with pytest.raises(PortfreeError) as caught:
        pyproject.load(repository)

    assert str(caught.value) == f"{path} is UTF-16: save it as UTF-8, as TOML has to be"


def test_a_table_below_a_plain_header_is_read(repository: Path) -> None:
    _write(repository, "[tool]\nportfree = { ports = [8000] }\n")

    settings = pyproject.load(repository)

    assert settings is not None
    assert settings.ports == (Port(8000),)


def test_a_file_that_cannot_be_read_is_said_so(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(repository, "[tool.portfree]\n")

    def refuse(_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)  # root may read every file

    with pytest.raises(PortfreeError) as caught:
        pyproject.load(repository)

    assert str(caught.value) == f"{path} cannot be read: Permission denied"


def test_a_current_directory_that_is_gone_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(PortfreeError, match=r"^the current directory has been deleted$"):
        pyproject.load(".")
