"""`didact doctor`: what this machine can do, and whether the engine computes what it should."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from didact.errors import TrainingGuard

if TYPE_CHECKING:
    from didact.engines.probe import ProbeResult

PACKAGES = ("didact", "torch", "transformers", "peft", "tokenizers", "reasoning-gym", "httpx2", "tinker")
SECRETS = ("HF_TOKEN", "OPENAI_API_KEY", "TINKER_API_KEY", "WANDB_API_KEY")


def doctor(
    model: Annotated[str, typer.Option(help="The model to probe the engine with.")] = "tiny",
    engine: Annotated[str, typer.Option(help="local, or tinker for a server.")] = "local",
    base_url: Annotated[str | None, typer.Option(help="The server's address.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The model's name on the server.")] = None,
    rank: Annotated[int, typer.Option(help="Of the adapter on the server.", min=1)] = 32,
) -> None:
    """Show versions and devices, and probe that gradients are what the losses say.

    With --engine tinker the server at --base-url is probed, on adapters that are thrown away.

    Exits with 2 for a model that is not sampled as it is trained, and with 4 where a probe fails.
    """
    import torch

    from didact.build.engines import make_engine
    from didact.config import ModelConfig
    from didact.engines.local.agreement import disagreement
    from didact.engines.probe import probe
    from didact.tasks.sandbox.probe import what_is_wrong
    from didact.tasks.sandbox.session import BACKENDS

    typer.echo(f"python         {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        typer.echo(f"{name:14} {_version(name)}")
    typer.echo(f"cores          {os.cpu_count()}, {torch.get_num_threads()} threads")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    typer.echo(f"gpu            {gpu}")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    typer.echo(f"disk           {free:.1f} GiB free here")
    for name in SECRETS:
        typer.echo(f"{name:14} {'set' if os.environ.get(name) else 'not set'}")
    for name in BACKENDS:
        typer.echo(f"{'sandbox':14} {name}: {what_is_wrong(name) or 'holds'}")
    if engine == "tinker":
        results = _probe_server(model, {"base_url": base_url, "base_model": base_model, "rank": rank})
    else:
        local = make_engine(ModelConfig(path=model))
        typer.echo(f"\nengine         {model} on {local.device}, {local.dtype}")
        typer.echo(f"  samples what it scores, to {disagreement(local):.1g} nats")
        results = probe(local)
    for result in results:
        typer.echo(f"  {result}")
    if failed := [r.name for r in results if not r.holds]:
        raise TrainingGuard(
            f"the engine fails its conformance probe ({', '.join(failed)}): nothing trained on it "
            "could be trusted"
        )


def _probe_server(path: str, settings: dict[str, Any]) -> list[ProbeResult]:
    from didact.build.engines import EngineContext, TinkerSettings
    from didact.config import ModelConfig
    from didact.engines.probe import probe
    from didact.engines.tinker.server_behavior import known_differences

    engine = TinkerSettings(**settings).connect(EngineContext(model=ModelConfig(path=path)), probed=False)
    server = engine.service
    typer.echo(
        f"\nengine         {engine.base_model} on {server.name}, at {server.base_url}, rank {engine.rank}"
    )
    for line in engine.behavior.lines():
        typer.echo(f"  {line}")
    with closing(engine):
        results = probe(engine)
    for known in known_differences(server.name):
        typer.echo("  {server} {version} {behavior}. Handling: {handling}".format(**known))
    return results


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
