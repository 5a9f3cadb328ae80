"""MLX's functions under the names of the array API standard, by which references run on its arrays."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np


class Namespace:
    """The functions of `tinyllm.spec.reference_profile`; what is not here MLX has under the same name."""

    bool = mx.bool_
    bitwise_left_shift, bitwise_right_shift = staticmethod(mx.left_shift), staticmethod(mx.right_shift)
    concat, permute_dims = staticmethod(mx.concatenate), staticmethod(mx.transpose)
    astype = staticmethod(mx.array.astype)

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, name)

    @staticmethod
    def asarray(values: Any, dtype: mx.Dtype | None = None) -> mx.array:
        """numpy's integers keep their 64 bits."""
        if isinstance(values, mx.array):
            return values if dtype is None else values.astype(dtype)
        return mx.array(np.asarray(values) if dtype is None else values, dtype)


xp: Any = Namespace()
