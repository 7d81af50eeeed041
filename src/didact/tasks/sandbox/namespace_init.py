"""Init process of the sandbox: creates the namespaces, drops privileges, then runs `serve`.

    supervisor (this process)  ── waits, exits with the status of process 1
        └─ process 1 of its own user, mount, pid, network, ipc and uts namespaces
              root: a read-only tmpfs with the interpreter's files, and /tmp that can be written
              no capability, no way to gain one, limits, a seccomp filter
              then `serve`, which runs the program

When process 1 ends, the kernel kills every process of its namespace, daemons too. When the supervisor ends,
process 1 does too. Imports little, because its start is part of every run.

Namespaces limit what a program can reach. The seccomp filter blocks the ways out of them and around the
limits: new namespaces and mounts, other programs, memory that no limit counts, kernel interfaces with known
exploits, and sockets outside of network namespaces (as those to a virtual machine's host).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

from didact.tasks.sandbox.serve import MIB, Limits, serve

NOBODY = 65534
BROKEN = 97
"""Exit code of a sandbox that could not be set up."""
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38
_SIGKILL = 9
# clone(2): NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_NOSUID, _NODEV, _REC, _PRIVATE, _DETACH = 2, 4, 0x4000, 0x40000, 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every machine
_CLONE_TREE, _CLOEXEC, _FROM_EMPTY_PATH = 1, 0o2000000, 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4

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

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Never returns.

    Args:
        arguments: "namespaces", "bubblewrap" or "unsafe"; the supervisor's parent; the channel's file
            descriptor; the descriptor for the id of process 1; the five limits of `Limits` but the wall time;
            then the visible paths, each as source and destination.
    """
    try:
        mode, shown = arguments[0], arguments[9:]
        parent, channel, info, *bounds = map(int, arguments[1:9])
        limits = Limits(*bounds)
        if mode == "namespaces":
            _isolate(parent, channel, info, limits, list(zip(shown[::2], shown[1::2], strict=True)))
        _confine(limits, locked=mode != "unsafe")
        os.environ.clear()
        os.environ.update({"HOME": os.getcwd(), "TMPDIR": os.getcwd(), "LANG": "C.UTF-8"})
        sys.argv[:] = ["program"]
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
        os._exit(BROKEN)
    serve(channel, longest=limits.output_kb * 1024)
    os._exit(0)


def _isolate(parent: int, channel: int, info: int, limits: Limits, shown: list[tuple[str, str]]) -> None:
    """Continue as process 1 of new namespaces; the calling process becomes its supervisor."""
    _die_with_parent()
    if os.getppid() != parent:
        os._exit(BROKEN)  # the parent died before PDEATHSIG was set
    as_root = os.geteuid() == 0
    _enter_namespaces(as_root)
    alive, held = os.pipe()
    child = os.fork()
    if child:
        os.write(info, b'{"child-pid": %d}' % child)
        os.close(channel)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    os.close(held)
    os.close(info)
    os.setsid()  # or kill(0, …) would reach the supervisor, which is in the same group
    _build_root(limits, shown)
    if as_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _die_with_parent()  # again, because a change of user resets it
    os.set_blocking(alive, False)
    try:
        os.read(alive, 1)
        os._exit(BROKEN)  # end of file: the supervisor is gone
    except BlockingIOError:
        os.close(alive)


def _enter_namespaces(as_root: bool) -> None:
    """Create namespaces, in which root keeps its user id only until the root directory is built.

    The kernel enforces no limit of processes for user 0, so a program must not run as user 0, not even as one
    that is 0 outside and another inside: root maps a second user and later becomes it. Only a process outside
    may write such a map.
    """
    uid, gid, me = os.geteuid(), os.getegid(), os.getpid()
    if not as_root:
        _check(_libc.unshare(_NAMESPACES), "unshare")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
        return
    ready, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        if os.read(ready, 1):
            second = f"\n{NOBODY} {NOBODY} 1"
            _write(f"/proc/{me}/uid_map", f"{uid} {uid} 1{second}")
            _write(f"/proc/{me}/gid_map", f"{gid} {gid} 1" + second * (gid != NOBODY))
        os._exit(0)
    os.close(ready)
    _check(_libc.unshare(_NAMESPACES), "unshare")
    os.write(go, b"1")
    os.close(go)
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError("the user map was refused: this root may not map users (CAP_SETUID is missing)")


def _build_root(limits: Limits, shown: list[tuple[str, str]]) -> None:
    """A read-only root directory with the visible paths, and a writable /tmp."""
    _mount(None, "/", None, _REC | _PRIVATE, None)
    trees = [(_open_tree(source), target, os.path.isdir(source)) for source, target in shown]
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,nr_inodes=4k,mode=755")
    os.chdir("/tmp")
    for tree, target, is_directory in trees:
        place = "." + target
        os.makedirs(place if is_directory else os.path.dirname(place), mode=0o755, exist_ok=True)
        if not is_directory:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
        _set_attributes(tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, device=target.startswith("/dev/"))
        moved = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, place.encode(), _FROM_EMPTY_PATH)
        _check(moved, f"move_mount {target}")
        os.close(tree)
    os.makedirs("./tmp", exist_ok=True)
    room = f"size={limits.disk_mb}m,nr_inodes=4k,mode=1777"
    _mount("tmpfs", "./tmp", "tmpfs", _NOSUID | _NODEV, room)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount2")
    os.chdir("/")
    _set_attributes(_AT_FDCWD, b"/", 0)
    os.chdir("/tmp")


def _confine(limits: Limits, *, locked: bool) -> None:
    """Set the limits, and if `locked` drop all capabilities and install the seccomp filter."""
    bounds = {
        resource.RLIMIT_AS: limits.memory_mb * MIB,
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_FSIZE: limits.disk_mb * MIB,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if locked:  # counted in the namespace; outside it would count the user's own processes
        bounds[resource.RLIMIT_NPROC] = limits.processes + 1  # the supervisor may be counted too
    for which, bound in bounds.items():
        hard = resource.getrlimit(which)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(which, (bound, bound))
    if not locked:
        return
    os.umask(0o077)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the capability sets, of this process
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    _check(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _install_filter()


def _die_with_parent() -> None:
    _check(_libc.prctl(_PDEATHSIG, _SIGKILL, 0, 0, 0), "pdeathsig")


def _open_tree(path: str) -> int:
    flags = _CLONE_TREE | _CLOEXEC | _AT_RECURSIVE
    return _check(_libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), f"open_tree {path}")


def _set_attributes(fd: int, path: bytes, flags: int, *, device: bool = False) -> None:
    """Make a mount read-only, without set-user-id files and, except for `device`, without devices."""
    wanted = _ATTR_RDONLY | _ATTR_NOSUID | (0 if device else _ATTR_NODEV)
    attributes = (ctypes.c_uint64 * 4)(wanted, 0, 0, 0)
    done = _libc.syscall(_MOUNT_SETATTR, fd, path, flags, ctypes.byref(attributes), 32)
    _check(done, f"mount_setattr {path.decode()}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    flag_word = ctypes.c_ulong(flags)
    _check(_libc.mount(words[0], words[1], words[2], flag_word, words[3]), f"mount {target}")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


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


def _install_filter() -> None:
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
    if _libc.prctl(pr_set_seccomp, mode_filter, ctypes.byref(header), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))
