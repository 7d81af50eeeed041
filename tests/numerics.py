"""How close two float32 results have to be: relative to their size, so that any CPU's rounding passes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def assert_close(found: Any, expected: Any, rel: float = 1e-4) -> None:
    """‖found − expected‖ ≤ rel · ‖expected‖ over all arrays together.

    Args:
        found: An array, a tensor, or a list of them.
        expected: The same shapes.
        rel: 1e-4 is far above the rounding of any kernel here and far below a wrong sign, mask or
            normaliser, which change a result by its own size.
    """
    pairs = list(zip(_arrays(found), _arrays(expected), strict=True))
    for a, b in pairs:
        assert a.shape == b.shape
    gap = np.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in pairs))
    size = np.sqrt(sum(float((b**2).sum()) for _, b in pairs))
    assert gap <= rel * size, (
        f"{gap:.3g} apart, of {size:.3g}: relative {gap / max(size, 1e-300):.3g} > {rel:g}"
    )


def assert_gradients_close(found: Iterable[Any], expected: Iterable[Any], rel: float = 1e-4) -> None:
    """As `assert_close` over the whole gradient, and for each tensor to 100 times that of its own size.

    The second part keeps a wrong sign in a small tensor, as a bias, from hiding behind the large ones.
    """
    found, expected = list(found), list(expected)
    assert_close(found, expected, rel)
    whole = np.sqrt(sum(float((b**2).sum()) for b in _arrays(expected)))
    for a, b in zip(_arrays(found), _arrays(expected), strict=True):
        # A tensor whose gradient is zero but for rounding has no relative error.
        limit = 100 * rel * float(np.linalg.norm(b)) + 1e-6 * whole
        assert float(np.linalg.norm(a - b)) <= limit, (a, b)


def _arrays(values: Any) -> list[np.ndarray]:
    if isinstance(values, torch.Tensor | np.ndarray):
        return [_float64(values)]
    return [_float64(value) for value in values]


def _float64(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, np.float64)
