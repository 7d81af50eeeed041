"""Didact trains language models by reinforcement learning from natural-language feedback.

    import didact

    run = didact.train("rltf-sd", out="runs/first", task="spell_backward", steps=20)

Everything that an extension needs is here; `__init__.pyi` lists the names and docs/api.md describes them.
"""

import lazy_loader

from didact._version import __version__ as __version__

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names]
