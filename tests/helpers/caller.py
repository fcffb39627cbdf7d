"""One call of `free_ports` in a process of its own, where it matters who asks, and from where.

Run as a program: ``python caller.py REQUEST``, a JSON object. The answer, a `Report` or the error
that was raised, goes to standard output as a pickle.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pickle
import pkgutil
import resource
import sys

PR_SET_DUMPABLE = 4  # prctl(2)

# What portfree may load late, or the standard library for it: see become().
LATE = "difflib getpass grp json logging pwd psutil select shlex struct subprocess textwrap tomllib"


def become(uid: int) -> None:
    """Go on as another user, who may not even be allowed to read this interpreter's library."""
    import portfree

    for module in pkgutil.walk_packages(portfree.__path__, "portfree."):
        # The plugins need programs that may not be there, and the last one runs when imported.
        if not module.name.endswith(("_plugin", "__main__")):
            importlib.import_module(module.name)
    for name in LATE.split():
        importlib.import_module(name)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # A process that has changed its user may not look at itself in /proc; one that was started by
    # that user may (proc(5), PR_SET_DUMPABLE in prctl(2)).
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def main() -> None:
    request = json.loads(sys.argv[1])
    os.chdir(request["cwd"])
    if request["uid"] is not None:
        become(request["uid"])

    from portfree import PortfreeError, free_ports

    if request["files"] is not None:  # so many more may be opened
        most = request["files"] + max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    answer: object
    try:
        answer = free_ports(*request["ports"], **request["options"])
    except PortfreeError as error:
        answer = error
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
