"""What a process is called: the program that its command line runs, and its other names."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portfree._system.interface import Process


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHELLS = word_set("sh bash dash zsh fish ksh mksh ash tcsh csh")

INTERPRETERS = re.compile(
    r"(?:python|pypy|node|nodejs|ruby|perl|java|bun|deno)[0-9.]*(?:-dbg|t)?w?"
)
# Python takes its flags in one word, and the module after them too: -um pytest, -mpytest.
PYTHON = re.compile(r"(?:python|pypy).*")
_PYTHON_MODULE = re.compile(r"-[bBdEhiIOPqRsSuvVx]*m(.*)")
_PYTHON_CODE = re.compile(r"-[bBdEhiIOPqRsSuvVx]*c.*", re.DOTALL)
# Of Python, node and Java.
_OPTIONS_WITH_VALUE = word_set("""
    -W -X --check-hash-based-pycs -r --require --import --loader --experimental-loader
    --env-file -C -cp -classpath --class-path --add-opens --add-exports
""")
_JS_COMMANDS = word_set("run x task test serve exec")
_TITLE_WORDS = re.compile(r"[^\s()\[\]]+")
_ENDINGS = (".exe", ".py", ".pyz", ".js", ".cjs", ".mjs", ".rb", ".pl", ".cmd", ".bat")


def program(process: Process) -> str:
    """The program that a process runs, by its command line, in lower case.

    ``python3 -m pytest`` is pytest, ``node /usr/bin/npm`` is npm, ``busybox sh`` is sh, and
    ``npm run dev`` (npm changes its title) is npm too. Without a command line, the kernel's name.
    """
    return _called(process.argv, process.name)[0]


def own_names(process: Process) -> frozenset[str]:
    """The names of its executable, whatever that runs."""
    return _called(process.argv, process.name)[1]


def names(process: Process) -> frozenset[str]:
    """All names of a process: its program, its first word, and the kernel's name."""
    return _called(process.argv, process.name)[2]


@lru_cache(maxsize=4096)  # one look asks for the same few programs some hundred times
def _called(argv: tuple[str, ...], kernels_name: str) -> tuple[str, frozenset[str], frozenset[str]]:
    first, *rest = split_title(argv) or (kernels_name,)
    name, kernels = plain_name(first), plain_name(kernels_name)
    interpreter = INTERPRETERS.fullmatch(name) is not None
    runs = name
    if name == "busybox" and rest:
        runs = plain_name(rest[0])
    elif interpreter:
        runs = _script(name, rest) or name
    # A script may be called like a part of the system (services.py, init.py), and the kernel's name
    # of one with a #! line is the script's.
    script = interpreter or name == "busybox" or name in SHELLS
    own = frozenset({name} if script else {name, kernels})
    return runs, own, own | {runs, kernels}


def split_title(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The command line; a title that a program gave itself is split, its program's name first."""
    words = list(argv)
    while words and not words[-1]:  # a shorter title leaves these of the old command line
        words.pop()
    if len(words) == 1:
        # "nginx: master process", "npm run dev", "node (vitest 1)"; but no path that has a space
        first, *rest = _TITLE_WORDS.findall(words[0]) or words
        if rest and "/" not in first and "\\" not in first:
            return first.rstrip(":"), *rest
    return tuple(words)


def _script(interpreter: str, words: Sequence[str]) -> str:
    """What an interpreter runs: the module after ``-m``, the file after ``-jar``, or the script."""
    python = PYTHON.fullmatch(interpreter) is not None
    first, *files = [word for word in words if not word.startswith("-")] or [""]
    if interpreter in ("bun", "deno") and first in _JS_COMMANDS:
        # bun run dev, deno task dev, but also bun run server.ts
        return plain_name(files[0]) if files and re.search(r"[./\\]", files[0]) else ""
    rest = iter(words)
    for word in rest:
        module = _PYTHON_MODULE.fullmatch(word) if python else None
        if module or word == "-jar":
            named = (module and module[1]) or next(rest, "")
            return plain_name(named.removesuffix(".__main__"))
        if word in ("-c", "-e", "--eval", "-p", "-") or (python and _PYTHON_CODE.fullmatch(word)):
            return ""
        if word in _OPTIONS_WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return plain_name(re.sub(r"[/\\]__main__\.py$", "", word))
    return ""


def plain_name(word: str) -> str:
    name = word.replace("\\", "/").rpartition("/")[2]
    name = name.removeprefix("-").lower()  # "-bash" is a login shell
    for ending in _ENDINGS:
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending)
    return name


def first_argument(process: Process) -> str:
    """The first argument that is no option, of the program and not of its interpreter."""
    words, own = split_title(process.argv), program(process)
    at = next((n for n, word in enumerate(words) if plain_name(word) == own), 0)
    return next((word for word in words[at + 1 :] if not word.startswith("-")), "")
