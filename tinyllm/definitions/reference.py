"""The `reference` of a definition: Python that runs by itself, torch tensors or numpy arrays in, the same kind out.

It is the op's own formula, the one that the oracle is, in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from inspect import unwrap
from types import FunctionType
from typing import Any

from tinyllm.definitions.bundle import bundle
from tinyllm.definitions.definition import Definition
from tinyllm.errors import UnsupportedError
from tinyllm.spec.quantized import dense

INSTEAD = {dense: "def dense(xp, weight, dtype):\n    return weight"}
"""Weights are arrays here."""
HEAD = '''\
def _wide(value):
    """An array or a tensor as numpy, floats in float64."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    return value.astype(np.float64) if value.dtype.kind not in "biu" else value


def _like(given, outputs, dtypes):
    """What the formula gives as arrays of the kind that came, rounded once."""
    if not hasattr(given, "detach"):
        return tuple(np.asarray(array).astype(dtype) for array, dtype in zip(outputs, dtypes))
    import torch

    tensors = [torch.from_numpy(np.array(array, order="C")) for array in outputs]
    return tuple(t.to(device=given.device, dtype=getattr(torch, dtype)) for t, dtype in zip(tensors, dtypes))
'''


def reference_source(definition: Definition) -> str:
    """The text of a module with `run(*inputs)`, which gives one output, or a tuple of several.

    Raises:
        UnsupportedError: the formula cannot stand alone.
    """
    spec = definition.spec
    formula = unwrap(spec.reference)
    if not isinstance(formula, FunctionType):
        raise UnsupportedError("its formula is no function")
    names = list(definition.inputs)
    arguments = [f"_wide({i.name})" for i in spec.positional]
    arguments += [f"{i.name}=_wide({i.name})" for i in spec.keyword if i.name in names]
    arguments += [f"{name}={name}" for name in definition.scalars]
    arguments += [f"{name}={value!r}" for name, value in definition.attributes.items()]
    dtypes: Any = tuple(tensor.dtype for tensor in definition.outputs.values())
    given = f"_like({names[0]}, outputs, {dtypes!r})"
    several = spec.gives_many or len(dtypes) > 1
    return "\n".join(
        [
            f'"""{spec.name}: {spec.formula}"""',
            "",
            "from __future__ import annotations",
            "",
            "import numpy as np",
            "",
            bundle(formula, INSTEAD, _classes(definition.attributes.values())).replace("import numpy as np\n", ""),
            "",
            HEAD,
            "",
            f"def run({', '.join(names)}):",
            f"    outputs = {formula.__name__}(np, {', '.join(arguments)})",
            "    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)",
            f"    return {given}{'' if several else '[0]'}",
            "",
        ]
    )


def _classes(values: Iterable[Any]) -> list[type]:
    """The classes of settings, and of settings within them."""
    found: list[type] = []
    for value in values:
        if is_dataclass(value) and not isinstance(value, type):
            found += [*_classes(getattr(value, field.name) for field in fields(value)), type(value)]
    return list(dict.fromkeys(found))
