"""One thread, no network, and the same hypothesis examples on every run."""

import os

# Before any import of torch, numpy or transformers, which read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from hypothesis import settings

settings.register_profile("didact", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("didact")
