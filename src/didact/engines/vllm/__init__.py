"""A local engine whose samples come from a vLLM server."""

from didact.engines.vllm.adapters import AdapterPublisher
from didact.engines.vllm.completion import StaleWeightsError
from didact.engines.vllm.engine import VLLMEngine, connect, vllm_server

__all__ = ["AdapterPublisher", "StaleWeightsError", "VLLMEngine", "connect", "vllm_server"]
