"""The seccomp filter: system calls that a program may not make.

Namespaces limit what a program can reach. The filter blocks the ways out of them and around the limits: new
namespaces and mounts, other programs, memory that no limit counts, kernel interfaces with known exploits, and
sockets outside of network namespaces (as those to a virtual machine's host). Runs inside the sandbox, so it
imports little.
"""

from __future__ import annotations

import ctypes
import os
import struct

# name: (number on x86_64, number on aarch64); None where the machine has no such call.
DENIED: dict[str, tuple[int | None, int]] = {
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "syslog": (103, 116), "acct": (163, 89), "swapon": (167, 224), "quotactl": (179, 60),
    "iopl": (172, -1), "ioperm": (173, -1), "modify_ldt": (154, -1), "fanotify_init": (300, 262),
    # Memory that RLIMIT_AS does not count once it is unmapped:
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip
CLONE, CLONE3, PRCTL, SOCKET = (56, 220), (435, 435), (157, 167), (41, 198)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""machine: (column of the numbers above, AUDIT_ARCH of linux/audit.h)."""

NEW_NAMESPACES = 0x7E020000
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16


def filter_program(machine: str) -> bytes:
    """The filter as an array of `struct sock_filter` (code u16, jt u8, jf u8, k u32).

    Raises:
        OSError: the machine's system call numbers are not known.
    """
    if machine not in MACHINES:
        raise OSError(
            f"no seccomp filter for the machine {machine!r}; there is one for {', '.join(MACHINES)}"
        )
    column, arch = MACHINES[machine]
    numbers = sorted({n for pair in DENIED.values() if (n := pair[column]) is not None and n >= 0})
    steps = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":  # the x32 calls, which have numbers of their own
        steps += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, EPERM)]
    # glibc falls back to clone, whose flags a filter can read.
    steps += [(_EQUAL, 0, 1, CLONE3[column]), (_RETURN, 0, 0, ENOSYS)]
    steps += _on_argument(CLONE[column], [(_ANY_BIT, 0, 1, NEW_NAMESPACES), (_RETURN, 0, 0, EPERM)])
    # PR_SET_PDEATHSIG: a program may not outlive its supervisor.
    steps += _on_argument(PRCTL[column], [(_EQUAL, 0, 1, 1), (_RETURN, 0, 0, EPERM)])
    # AF_UNIX, AF_INET and AF_INET6 end at the network namespace; others need not.
    families = [(_EQUAL, 3, 0, 1), (_EQUAL, 2, 0, 2), (_EQUAL, 1, 0, 10), (_RETURN, 0, 0, EPERM)]
    steps += _on_argument(SOCKET[column], families)
    for place, number in enumerate(numbers):
        steps.append((_EQUAL, len(numbers) - place, 0, number))
    steps += [(_RETURN, 0, 0, ALLOW), (_RETURN, 0, 0, EPERM)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _on_argument(number: int, tests: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Instructions for one call: allow it unless the tests on its first argument refuse."""
    body = [(_LOAD, 0, 0, _FIRST_ARGUMENT), *tests, (_RETURN, 0, 0, ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]


def install(libc: ctypes.CDLL) -> None:
    """Install the filter on this process and all its children, irrevocably.

    Raises:
        OSError: the kernel refused, or the machine is not known.
    """
    program = filter_program(os.uname().machine)
    buffer = ctypes.create_string_buffer(program, len(program))

    class SockFprog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    header = SockFprog(len(program) // 8, ctypes.addressof(buffer))
    pr_set_seccomp, mode_filter = 22, 2
    if libc.prctl(pr_set_seccomp, mode_filter, ctypes.byref(header), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))
