"""What has to be installed before the clock starts, and which versions that gave."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyperf

from benchmarks.stage import ENVIRONMENT, population

NPM = ("kill-port", "fkill-cli")

INSTALLING = 120
"""Seconds that npm may take: a machine without a way out must not wait for ever."""


class Tools:
    """Where the programs are; those that are missing have a reason instead of a path."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.with_portfree = _venv(folder / "with", "pytest", str(wheel))
        # The same pytest without portfree: `-p no:portfree` would still find and skip the plugin.
        self.without_portfree = _venv(folder / "without", "pytest")
        self.missing = {
            name: f"{name} is not installed"
            for name in ("lsof", "fuser", "netstat")
            if shutil.which(name) is None
        }
        self._npm = folder / "npm"
        if reason := self._install_from_npm():
            self.missing |= dict.fromkeys(NPM, reason)

    def program(self, name: str) -> str:
        """A program from npm, as a shell or a package.json starts it."""
        return str(self._npm / "node_modules" / ".bin" / name)

    def _install_from_npm(self) -> str:
        """Install into our own folder; say why if that cannot be done."""
        if shutil.which("npm") is None:
            return "npm is not installed"
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(self._npm), *NPM]
        try:
            # With our own environment: it may say where packages come from.
            done = subprocess.run(command, capture_output=True, timeout=INSTALLING)
        except subprocess.TimeoutExpired:
            return f"npm install took more than {INSTALLING} s"
        return f"npm install ended with {done.returncode}" if done.returncode else ""

    def versions(self) -> dict[str, str]:
        found = {name: version(name) for name in ("portfree", "psutil", "pyperf")}
        found["pytest"] = _said(str(self.with_portfree / "pytest"), "--version")
        for name, flag in (("lsof", "-v"), ("fuser", "-V"), ("netstat", "-V")):
            if name not in self.missing:
                found[name] = _said(name, flag)
        for name in NPM:
            package = self._npm / "node_modules" / name / "package.json"
            if name not in self.missing:
                found[name] = _number(package.read_text(), '"version": *"([^"]+)"')
        if shutil.which("node"):
            found["node"] = _said("node", "--version")
        return found


def machine() -> dict[str, Any]:
    """The machine, as pyperf sees it; its name and its paths are nobody's business."""
    facts = pyperf.Run([1.0], metadata={"name": "machine"}).get_metadata()
    memory = re.search(r"MemTotal: *(\d+)", Path("/proc/meminfo").read_text())
    return {
        "platform": facts.get("platform"),
        "cpu": facts.get("cpu_model_name"),
        "cpus": facts.get("cpu_count", 1),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "python": facts.get("python_version"),
        "load_before": facts.get("load_avg_1min", 0.0),
        **population(),
    }


def _venv(folder: Path, *packages: str) -> Path:
    """A virtual environment with the packages; its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    programs = folder / "bin"
    # With our own environment here too.
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python3")]
    subprocess.run([*pip, "install", "--quiet", "--compile", *packages], check=True)
    return programs


def _said(*command: str) -> str:
    said = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    return _number(said.stdout + said.stderr, r"(\d+\.\d[\w.]*)")


def _number(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "unknown"
