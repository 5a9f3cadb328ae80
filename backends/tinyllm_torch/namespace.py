"""PyTorch's functions under the names of the array API standard, by which references run on tensors."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch

CREATION = ("arange", "asarray", "ones", "zeros")


class Namespace:
    """The standard's functions; those that make tensors make them on a device."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        function = getattr(array_api_compat.torch, name)
        if name not in CREATION or self._device == "cpu":
            return function
        return lambda *args, **kwargs: function(*args, **{"device": self._device, **kwargs})


xp = Namespace("cpu")
