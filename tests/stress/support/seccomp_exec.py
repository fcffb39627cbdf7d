"""Start a command with something taken away that programs rely on.

Run as a program: ``python -S seccomp_exec.py WHAT… -- COMMAND…``, to the command itself by exec.

===========  ======================================================================
what         the kernel's answer
===========  ======================================================================
``netlink``  EPERM for a netlink socket, as in many sandboxes
``ipv6``     EAFNOSUPPORT for an IPv6 socket, as with ``ipv6.disable=1``
``pidfd``    ENOSYS for pidfd_open, as before Linux 5.3
``signals``  EPERM for a signal through a pidfd, as a security module may answer
===========  ======================================================================

It is a filter of seccomp(2), in the machine language of Documentation/networking/filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2  # prctl(2)
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
ALLOW, ERRNO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_…
NUMBER, FIRST_ARGUMENT = 0, 16  # where they are in struct seccomp_data

SOCKET = {"x86_64": 41, "aarch64": 198}
PIDFD_SEND_SIGNAL, PIDFD_OPEN = 424, 434  # the same everywhere


def instruction(code: int, value: int, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, 0, if_not, value)


def refuse(call: int, error: int, first_argument: int | None = None) -> bytes:
    """Answer a system call with an error, or only the one with this first argument."""
    answer = instruction(RETURN, ERRNO | error)
    if first_argument is not None:
        answer = instruction(LOAD, FIRST_ARGUMENT) + instruction(EQUAL, first_argument, 1) + answer
    return instruction(LOAD, NUMBER) + instruction(EQUAL, call, len(answer) // 8) + answer


def rules(what: str) -> bytes:
    open_socket = SOCKET[platform.machine()]
    return {
        "netlink": refuse(open_socket, errno.EPERM, socket.AF_NETLINK),
        "ipv6": refuse(open_socket, errno.EAFNOSUPPORT, socket.AF_INET6),
        "pidfd": refuse(PIDFD_OPEN, errno.ENOSYS),
        "signals": refuse(PIDFD_SEND_SIGNAL, errno.EPERM),
    }[what]


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def main() -> None:
    dashes = sys.argv.index("--")
    code = b"".join(map(rules, sys.argv[1:dashes])) + instruction(RETURN, ALLOW)
    program = Program(len(code) // 8, code)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # Without root, only a process that renounces setuid programs may filter.
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
    command = sys.argv[dashes + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
