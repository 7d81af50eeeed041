"""A vLLM server as sampler: see `engine.py`. Not run on a GPU, nor against vLLM itself, by the project."""

from didact.engines.vllm.completion import StaleWeightsError
from didact.engines.vllm.connect import connect
from didact.engines.vllm.engine import VLLMEngine
from didact.engines.vllm.http import Server, ServerError
from didact.engines.vllm.transfer import Broadcast, LoraFiles, Transfer

__all__ = [
    "Broadcast",
    "LoraFiles",
    "Server",
    "ServerError",
    "StaleWeightsError",
    "Transfer",
    "VLLMEngine",
    "connect",
]
