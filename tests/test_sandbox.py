"""The sandbox against real hostile programs: what they do stays inside, and scores 0.

The programs lie in tests/hostile as .py.txt, so that nothing imports them by accident.
"""

import ast
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from didact.errors import UsageError
from didact.tasks.code import Outcome
from didact.tasks.code import task as task_module
from didact.tasks.sandbox import namespace_init as seccomp
from didact.tasks.sandbox import probe as probe_module
from didact.tasks.sandbox import session as session_module
from didact.tasks.sandbox.probe import choose_backend, what_is_wrong
from didact.tasks.sandbox.serve import Limits
from didact.tasks.sandbox.session import BACKENDS, SandboxError, Session, Stop, Stopped, shown_paths
from didact.types import Problem
from tests.helpers import code_task

HOSTILE = Path(__file__).parent / "hostile"
SYSTEM_PYTHON = "/usr/bin/python3"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@functools.cache
def holds(name, python):
    """A sandbox holds here, with the current interpreter (None) or another."""
    with pytest.MonkeyPatch.context() as patched:
        if python is not None:
            use_python(patched, python)
        return what_is_wrong.__wrapped__(name) is None


def use_python(monkeypatch, python):
    """Start sandboxes with an interpreter of the system, which needs nothing but the system's libraries."""
    shown = shown_paths()
    system = (*session_module._SYSTEM_LIBRARIES, *session_module._DEVICES)
    monkeypatch.setattr(session_module, "interpreter", lambda: os.path.realpath(python))
    for module in (session_module, probe_module):
        monkeypatch.setattr(module, "shown_paths", lambda: tuple(p for p in shown if p[1] in system))


@pytest.fixture(params=BACKENDS)
def held(request, monkeypatch):
    """A backend, or a skip where it does not hold.

    Bubblewrap started by root may not read an interpreter in root's home, so it is also tried with the
    system's.
    """
    name = request.param
    if not holds(name, None):
        if not (os.path.exists(SYSTEM_PYTHON) and holds(name, SYSTEM_PYTHON)):
            pytest.skip(f"{name}: {what_is_wrong(name)}")
        use_python(monkeypatch, SYSTEM_PYTHON)
    return name


@pytest.fixture
def task(held, tmp_path, monkeypatch):
    rows = [
        {"prompt": text, "signature": "def answer(x):", "tests": ["answer(1) == 2", "answer(2) == 4"],
         "reference": "def answer(x):\n    return 2 * x\n"}
        for text in ("Double it.", "Twice, please.")
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(task_module, "choose_backend", lambda *args, **kwargs: held)
    return code_task(path, cpu_seconds=1, wall_seconds=2)


def sandbox_processes():
    """Processes of this machine that were started for one of our sandboxes."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if str(os.getpid()).encode() in words and any(b"sandbox.namespace_init" in w for w in words):
                    found.append(int(folder.name))
    return found


def run_hostile(task, name, tmp_path, port=1):
    canary = tmp_path / "canary"
    canary.write_text("alive")
    text = (HOSTILE / f"{name}.py.txt").read_text()
    for word, value in {"CANARY": canary, "HOME": Path.home(), "PORT": port, "PID": os.getpid()}.items():
        text = text.replace(f"@{word}@", str(value))
    answer = f"```python\n{text}\n```"
    verdict, report = task.verify(task.train_problem(0), answer), task.report(task.train_problem(0), answer)
    assert canary.read_text() == "alive"
    assert sandbox_processes() == []
    return verdict, report


CONTAINED = [
    "many_processes", "big_write", "network", "secrets", "uncounted_memory", "threads", "symlinks",
    "signals", "delete_files", "escape",
]  # fmt: skip
ENDS = {
    "fork_bomb": {Outcome.CPU, Outcome.TIME},
    "exit_zero": {Outcome.EXIT},
    "exit_while_loading": {Outcome.EXIT},
    "always_equal": {Outcome.WRONG, Outcome.RAISED},
    "patched_runner": {Outcome.WRONG, Outcome.ANSWER, Outcome.EXIT, Outcome.RAISED},
    "forged_channel": {Outcome.WRONG},
    "forged_nonsense": {Outcome.ANSWER},
    "endless_channel": {Outcome.ANSWER},
    "closed_channel": {Outcome.EXIT},
    "daemon": {Outcome.WRONG},
    "endless_output": {Outcome.OUTPUT},
    "huge_memory": {Outcome.RAISED},
    "infinite_loop": {Outcome.CPU, Outcome.TIME},
    "sleeper": {Outcome.TIME},
    "stack_overflow": {Outcome.EXIT, Outcome.RAISED},
    "hostile_exception": {Outcome.RAISED},
    "huge_value": {Outcome.WRONG},
    "nested_value": {Outcome.WRONG},
    "system_exit": {Outcome.RAISED},
    "null_byte": {Outcome.UNLOADABLE},
}


def test_every_hostile_program_is_run():
    names = {path.name.removesuffix(".py.txt") for path in HOSTILE.glob("*.py.txt")}
    assert names == {*CONTAINED, *ENDS}
    assert not list(HOSTILE.glob("*.py"))


@pytest.mark.parametrize("name", CONTAINED)
def test_what_a_program_tries_stays_inside(task, name, tmp_path, monkeypatch):
    monkeypatch.setenv("DIDACT_SECRET", "canary")
    task.limits = Limits(cpu_s=5, wall_s=30)  # it is what holds them that is tested here, not the clock
    signals = []
    before = {n: signal.signal(n, lambda number, frame: signals.append(number)) for n in (10, 15)}
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as unix:
            port = listener.getsockname()[1]
            unix.bind(f"\0didact-{port}")
            unix.listen()
            listener.setblocking(False)
            verdict, report = run_hostile(task, name, tmp_path, port)
            with pytest.raises(BlockingIOError):
                listener.accept()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert verdict == (0.0, False, None)
    assert report.results[0].got == "'contained'"
    assert signals == []


@pytest.mark.parametrize("name", ENDS)
def test_a_hostile_program_is_a_wrong_answer_and_says_how_it_ended(task, name, tmp_path):
    verdict, report = run_hostile(task, name, tmp_path)
    assert verdict == (0.0, False, None)
    assert report.outcome in ENDS[name]
    assert report.passed == 0


def test_the_same_programs_do_harm_without_a_sandbox(tmp_path):
    """The negative control: the probe and the programs can tell."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Session("unsafe", Limits()) as session:
        port = listener.getsockname()[1]
        text = (HOSTILE / "network.py.txt").read_text().replace("@PORT@", str(port))
        session.run(text.replace("@CANARY@", str(tmp_path)))
        assert "loopback" in json.loads(session.evaluate("answer(1)"))["value"]
    wrong = what_is_wrong("unsafe")
    assert wrong is not None
    assert "exit" in wrong  # it could run /bin/true in its place


# ── the sandbox itself


def test_a_sandbox_holds_where_user_namespaces_work():
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urpfn", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    assert any(holds(name, python) for name in BACKENDS for python in (None, SYSTEM_PYTHON))


def test_a_value_comes_back_and_state_stays_between_requests(held):
    with Session(held, Limits()) as session:
        session.run("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int = 1\nseen = []")
        assert session.evaluate("seen.append(P()) or len(seen)") == '{"value":1}'
        assert session.evaluate("(seen[0].x, [None, 2.5, 'é'])") == (
            '{"value":["t",1,["l",null,["f","0x1.4000000000000p+1"],"\\u00e9"]]}'
        )
        raised = json.loads(session.evaluate("seen.pop(7)"))["raised"]
        assert raised == ["IndexError", "pop index out of range", 0, ""]


def test_hashing_is_the_same_every_time(held):
    orders = set()
    for _ in range(2):
        with Session(held, Limits()) as session:
            orders.add(session.evaluate("list(set('abcdefghij'))"))
    assert len(orders) == 1


def test_what_was_written_is_gone_with_its_sandbox(held):
    for _ in range(2):
        with Session(held, Limits()) as session:
            assert session.evaluate("__import__('os').listdir('.')") == '{"value":["l"]}'
            session.run("open('left', 'w').write('x')")


def leave_in_the_middle(session):
    session.run("import os, signal\nif os.fork() == 0:\n    os.setsid()\n    signal.pause()")
    assert sandbox_processes()
    raise KeyboardInterrupt


def test_leaving_early_takes_every_process_along(held):
    with pytest.raises(KeyboardInterrupt), Session(held, Limits()) as session:
        leave_in_the_middle(session)
    assert sandbox_processes() == []


def test_a_sandbox_dies_with_the_process_that_started_it(held, tmp_path):
    code = (
        "import os, sys\n"
        "from didact.tasks.sandbox import session as module\n"
        "from didact.tasks.sandbox.serve import Limits\n"
        "from didact.tasks.sandbox.session import Session\n"
        f"module.interpreter = lambda: {session_module.interpreter()!r}\n"
        f"module.shown_paths = lambda: {session_module.shown_paths()!r}\n"
        f"with Session({held!r}, Limits()) as session:\n"
        "    program = b'!import os, signal\\nos.write(1, b\"x\")\\nsignal.pause()'\n"
        "    session._channel.send(b'%d\\n%s' % (len(program), program))\n"
        "    session._output.setblocking(True)\n"
        "    session._output.recv(1)\n"  # it runs, and will not notice that its channel is closed
        "    print('up', flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "up\n"
    deadline = time.monotonic() + 10
    left = True
    while left and time.monotonic() < deadline:  # the kernel ends it as soon as it can
        left = any(
            b"sandbox.namespace_init" in words and f"\0{held}\0".encode() in words and b"pytest" not in words
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit()
            for words in [_cmdline(folder)]
        )
    assert not left


def _cmdline(folder):
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_run_leaves_no_descriptor_and_no_zombie(held, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    with Session(held, Limits()) as session:
        session.run("x = 1")
    monkeypatch.setattr(session_module, "interpreter", lambda: "/bin/false")
    with pytest.raises(SandboxError), Session("namespaces", Limits()):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
    assert sandbox_processes() == []


def test_a_program_that_leaves_the_limits_says_which(held):
    for program, why in [("while True: pass", Stop.CPU), ("import os; os._exit(3)", Stop.EXIT)]:
        with Session(held, Limits(cpu_s=1)) as session, pytest.raises(Stopped) as stopped:
            session.run(program)
        assert stopped.value.why is why
    assert stopped.value.detail == "exit code 3"


def test_the_wall_clock_bounds_what_uses_no_cpu(held):
    with Session(held, Limits(wall_s=0.2)) as session, pytest.raises(Stopped) as stopped:
        session.run("import signal\nsignal.pause()")  # without the limit, for ever
    assert stopped.value.why is Stop.TIME


# ── starting, probing and refusing


@pytest.mark.parametrize(
    ("python", "why"),
    [("/bin/sh", r"namespaces.*([Ii]llegal|invalid)"), ("/nowhere/python", "No such file")],
)
def test_a_sandbox_that_cannot_start_says_why(python, why, monkeypatch):
    monkeypatch.setattr(session_module, "interpreter", lambda: python)  # a shell knows no -P
    with pytest.raises(SandboxError, match=why), Session("namespaces", Limits()):
        pass


@pytest.fixture
def no_sandbox(monkeypatch):
    monkeypatch.setattr(probe_module, "what_is_wrong", lambda name: f"{name} is switched off")


def test_without_a_sandbox_nothing_is_run_and_the_cure_is_named(no_sandbox):
    with pytest.raises(UsageError, match=r"namespaces: .*switched off") as e:
        choose_backend()
    assert "unsafe_local_exec=true" in str(e.value)
    assert e.value.exit_code == 2
    with pytest.raises(UsageError, match="no sandbox holds"):
        code_task()


def test_running_without_one_is_a_choice_that_is_recorded(no_sandbox):
    assert choose_backend(unsafe_local_exec=True) == "unsafe"
    task = code_task(unsafe_local_exec=True)
    assert task.sandbox == "unsafe"
    problem = task.train_problem(0)
    assert task.verify(problem, problem.reference).correct
    with pytest.raises(UsageError, match="namespaces is switched off"):
        choose_backend("namespaces", unsafe_local_exec=True)


def test_a_sandbox_is_preferred_to_none_even_where_none_is_allowed(monkeypatch):
    monkeypatch.setattr(probe_module, "what_is_wrong", lambda name: None)
    assert choose_backend(unsafe_local_exec=True) == "bubblewrap"


def test_an_unknown_backend_is_refused():
    with pytest.raises(UsageError, match="'docker'"):
        choose_backend("docker")


def test_the_probe_sees_a_home_directory_that_is_shown(held, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/usr/lib"))
    assert what_is_wrong.__wrapped__(held) == "the home directory is visible"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("0x20000000 | 0x40000000", "0x20000000", "network is visible"),
        ("bounds[resource.RLIMIT_NPROC] =", "_ =", "limit of processes does not hold"),
        ("os.environ.clear()", "pass", "environment is not scrubbed"),
        ("    _install_filter()\n", "", "new namespaces can be made"),
        ("f\"size={limits.disk_mb}m,", "f\"size=900m,", "disk limit does not hold"),
    ],
)  # fmt: skip
def test_the_probe_sees_each_wall_that_is_missing(old, new, complaint, tmp_path, monkeypatch):
    if what_is_wrong("namespaces") is not None:
        pytest.skip("namespaces do not hold here")
    copy = tmp_path / "sandbox"
    shutil.copytree(session_module._HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / "namespace_init.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    monkeypatch.setattr(session_module, "_HERE", str(copy))
    monkeypatch.setattr(session_module, "_environment", lambda: {"DIDACT_SECRET": "x"})
    assert complaint in what_is_wrong.__wrapped__("namespaces")


def test_only_what_the_interpreter_needs_is_shown():
    paths = [target for _, target in shown_paths()]
    home = str(Path.home())
    assert home not in paths
    assert "/" not in paths
    assert all(not home.startswith(path.rstrip("/") + "/") for path in paths)


@pytest.mark.parametrize(
    "changes",
    [{"cpu_seconds": 0}, {"memory_mb": 1}, {"wall_seconds": 0}, {"wall_seconds": float("inf")}],
)
def test_limits_out_of_range_are_refused(changes):
    with pytest.raises(UsageError, match=next(iter(changes))):
        code_task(**changes)


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_filter_is_a_sound_program(machine):
    steps = list(struct.iter_unpack("=HBBI", seccomp.filter_program(machine)))
    for place, (code, on_true, on_false, _) in enumerate(steps):
        if code & 0x07 == 0x05:  # a jump
            assert place + 1 + max(on_true, on_false) < len(steps)
    assert steps[-1] == (0x06, 0, 0, seccomp.EPERM)
    assert run_filter(steps, seccomp.MACHINES[machine][1], 10**6, 0) == seccomp.ALLOW
    assert run_filter(steps, 0x1234, 0, 0) == seccomp.KILL
    column = seccomp.MACHINES[machine][0]
    for name, numbers in seccomp.DENIED.items():
        if numbers[column] is not None and numbers[column] >= 0:
            arch = seccomp.MACHINES[machine][1]
            assert run_filter(steps, arch, numbers[column], 0) == seccomp.EPERM, name
    arch, clone = seccomp.MACHINES[machine][1], seccomp.CLONE[column]
    assert run_filter(steps, arch, clone, 0x01200011) == seccomp.ALLOW
    assert run_filter(steps, arch, clone, 0x10000011) == seccomp.EPERM
    families = {f: run_filter(steps, arch, seccomp.SOCKET[column], f) for f in (1, 2, 10, 16, 17, 40)}
    assert [f for f, verdict in families.items() if verdict == seccomp.ALLOW] == [1, 2, 10]


def run_filter(steps, arch, number, argument):
    """The kernel's reading of a filter, for the few instructions that ours has."""
    accumulator, place = 0, 0
    while True:
        code, on_true, on_false, k = steps[place]
        place += 1
        if code == 0x06:
            return k
        if code == 0x20:
            accumulator = {0: number, 4: arch, 16: argument}[k]
        else:
            test = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            place += on_true if test else on_false


def test_an_unknown_machine_has_no_filter_and_so_no_sandbox():
    with pytest.raises(OSError, match="'vax'"):
        seccomp.filter_program("vax")


def test_what_runs_inside_imports_nothing_of_ours_but_itself():
    for name in ("namespace_init", "serve"):
        tree = ast.parse((Path(seccomp.__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("didact"):
                assert node.module.startswith("didact.tasks.sandbox"), name


def test_a_broken_sandbox_is_a_missing_verdict_and_never_a_zero(monkeypatch):
    monkeypatch.setattr(task_module, "choose_backend", lambda *args, **kwargs: "namespaces")
    monkeypatch.setattr(session_module, "interpreter", lambda: "/bin/false")
    task = code_task()
    problem = task.train_problem(0)
    verdict = task.verify(problem, problem.reference)
    assert (verdict.reward, verdict.correct) == (None, False)
    assert "sandbox did not start" in verdict.error
    monkeypatch.undo()
    assert isinstance(problem, Problem)
