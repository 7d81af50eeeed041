"""A real SkyRL Tinker server on this machine's CPU: JAX backend, the bundled model, loopback.

Run by `make test-engines` in an environment of its own; elsewhere there is no `skyrl`, and all is skipped.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

START_SECONDS = 600
"""Importing JAX, torch and transformers twice takes long on a busy machine."""
RANK = 8
BACKEND = {
    "max_lora_adapters": 8,
    "max_lora_rank": RANK,
    # One row at a time: then a compiled program depends on the length alone, and few are compiled.
    "train_micro_batch_size": 1,
    "sample_max_num_sequences": 64,
}
MISSING = [name for name in ("skyrl", "tinker", "jax", "uv") if find_spec(name) is None]


def pytest_collection_modifyitems(items):
    if not MISSING:
        return
    reason = f"{', '.join(MISSING)} not installed here: `make test-engines` makes an environment with them"
    for item in items:
        if "engines_remote" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=reason))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny Qwen3 on disk, float32; `DIDACT_TEST_TINKER_MODEL` where a server of it already runs."""
    if given := os.environ.get("DIDACT_TEST_TINKER_MODEL"):
        return given
    from didact.build.engines import tiny_model

    folder = tmp_path_factory.mktemp("model") / "tiny-qwen3"
    shutil.copytree(tiny_model(), folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3"
    return str(folder)


@pytest.fixture(scope="session")
def server(model, tmp_path_factory):
    """The server's address; `DIDACT_TEST_TINKER_URL` of one that runs. Where it does not start, its log."""
    given = os.environ.get("DIDACT_TEST_TINKER_URL")
    if given:
        yield given
        return
    work, port = tmp_path_factory.mktemp("server"), free_port()
    url, log = f"http://127.0.0.1:{port}", work / "server.log"
    environment = os.environ | {
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "UV_OFFLINE": "1",
        # Compiling costs more than running a model this small.
        "XLA_FLAGS": "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=1",
    }
    # The server starts its engine by the flags of the `uv run` that started it, so it must be one.
    command = ["uv", "run", "--active", "--no-project", "-m", "skyrl.tinker.api"]
    command += ["--base-model", model, "--backend", "jax", "--backend-config", json.dumps(BACKEND)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--checkpoints-base", str(work / "checkpoints")]
    command += ["--database-url", f"sqlite:///{work}/tinker.db"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=work, start_new_session=True
        )
    try:
        wait_until_it_answers(process, url, log)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_it_answers(process, url, log):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)  # a process that starts reports to nobody
    tail = log.read_text(errors="replace")[-3000:]
    pytest.fail(f"the SkyRL server did not answer at {url} within {START_SECONDS} s:\n{tail}")


@pytest.fixture(scope="session")
def connected(server, model, tmp_path_factory):
    """An engine on the server, and where its adapter and optimizer are kept as they were made."""
    from didact.engines.tinker import TinkerService, connect

    service = TinkerService(server, model, api_key=None, timeout=600.0, pipelined=False)
    made = connect(service, model, rank=RANK, probed=False)
    fresh = tmp_path_factory.mktemp("fresh")
    made.save(fresh)
    yield made, fresh
    made.close()


@pytest.fixture
def engine(connected):
    """The same with nothing trained: Adam counts from its first step."""
    made, fresh = connected
    made.load(fresh)
    return made
