"""A local engine whose samples come from a vLLM server."""

from didact.engines.vllm.engine import VLLMEngine
from didact.engines.vllm.server import StaleWeightsError, vllm_server

__all__ = ["StaleWeightsError", "VLLMEngine", "vllm_server"]
