"""The GitHub Action: how its environment is made."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.job import Job

if TYPE_CHECKING:
    from helpers.processes import Processes


# The set-up


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_environment_is_built_once_and_is_its_own(
    job: Job, processes: Processes, installed: Path
) -> None:
    (home,) = (path for path in installed.iterdir() if path.is_dir())
    assert re.fullmatch(r"portfree-[0-9]+", home.name)
    before = home.stat().st_ino
    env = {"RUNNER_TEMP": str(installed), "PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}
    port = str(processes.free_port())
    step = job.set_up(env, ports=port, run='echo "home: $PYTHONHOME"')
    assert step.code == 0, step.log
    assert "installed" not in step.log
    assert "home: /nowhere" in step.log
    assert home.stat().st_ino == before


def tools(folder: Path, **programs: str) -> str:
    """A PATH that has what a script needs, and these programs besides."""
    folder.mkdir()
    for name in ("bash", "cat", "cksum", "mktemp", "mv", "rm"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return str(folder)


def test_without_a_python_it_says_what_to_do(job: Job, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", python3="#!/bin/sh\nexit 1\n")
    step = job.set_up({"PATH": path}, ports="8000")
    assert step.code == 2
    (error,) = [line for line in step.commands if line.startswith("::error")]
    assert "there is no Python 3.11 or newer here" in error
    assert "actions/setup-python" in error
    assert not [name for name in listing(job.temp) if re.fullmatch(r"portfree-[0-9]+", name)]


def test_a_python_of_the_tool_cache_will_do(job: Job, tmp_path: Path) -> None:
    cache = tmp_path / "a cache" / "Python" / "3.11.7" / "x64" / "bin"
    cache.mkdir(parents=True)
    # It is asked whether it is new enough, and then to make an environment, which it refuses.
    (cache / "python3").write_text('#!/bin/sh\n[ "$2" = -c ] || { echo "asked: $*"; exit 9; }\n')
    (cache / "python3").chmod(0o755)
    env = {"PATH": tools(tmp_path / "bin"), "RUNNER_TOOL_CACHE": str(tmp_path / "a cache")}
    step = job.set_up(env, ports="8000")
    assert step.code == 2
    assert "asked: -I -m venv" in step.log
    assert "::error title=portfree::portfree could not be installed" in step.log


def test_uv_is_preferred_and_a_failure_of_it_is_not_the_end(job: Job, tmp_path: Path) -> None:
    uv = '#!/bin/sh\necho "uv: $*"\nexit 1\n'
    path = tools(tmp_path / "bin", uv=uv, python3='#!/bin/sh\n[ "$2" = -c ] || exit 9\n')
    step = job.set_up({"PATH": path}, ports="8000")
    assert step.code == 2
    assert "uv: venv --python >=3.11" in step.log
    assert "portfree could not be installed" in step.log
