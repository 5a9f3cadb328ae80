"""The arrays that sampling works on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""A number for each token of the vocabulary, `[V]`, or for some of them."""
Ids = NDArray[np.int64]
"""Token ids."""
