"""Writes docs/schemes.md from the schemes: `python -m tinyllm.catalogue.schemes.docs docs/schemes.md`."""

from __future__ import annotations

import inspect
from fractions import Fraction

from tinyllm.catalogue.docs import write
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.catalogue.schemes.gguf.blocks import GgufBlocks
from tinyllm.spec.scheme import Scheme

HEAD = """# Quantization schemes

Made from the objects in `tinyllm/catalogue/schemes/`; do not edit (`make docs` writes it anew).

A scheme says how the numbers of a weight `[..., N, K]` are held: in which arrays, and by which formula these stand for
numbers. N counts rows, K columns; columns are quantized together in blocks, and K is a multiple of the block. A
`QuantWeight` is a scheme with its arrays and the shape of the weight. Every op that takes a weight takes one:

```python
import numpy as np

from tinyllm import Affine, QuantWeight, ops

weight = QuantWeight(
    scheme=Affine(bits=4, group_size=32),
    arrays={
        "q": np.zeros((64, 128 * 4 // 32), np.uint32),
        "scales": np.ones((64, 128 // 32), np.float16),
        "biases": np.zeros((64, 128 // 32), np.float16),
    },
    shape=(64, 128),
)
y = ops.linear(np.ones((1, 128), np.float32), weight)
```

`ops.quantize(w, scheme=Affine(bits=4, group_size=32))` makes such a weight from floats; not every scheme can. Weights
of GGUF files keep the bytes of the file. A backend without a kernel for a scheme runs the weight by a kernel for the
scheme that has the same numbers, or by the numbers themselves. Further schemes come from [plugins](plugins.md) by the
hook `tinyllm_schemes`.

## Folders

Formats that lie in a folder's safetensors, the scheme that has the very same numbers, and the bytes that a weight takes
in the file and as the native backend holds it, for a matrix of 1024 rows and 4096 columns. Activations are never
quantized, whatever a config says of theirs: a layer is that of the dequantized weight.

| format | scheme | in the file | held |
|---|---|---|---|
| GPTQ, 4 bits, groups of 128 | `zero_point4/128` | 0.523 | 0.523 |
| GPTQ, 4 bits, groups of 32 | `zero_point4/32` | 0.582 | 0.594 |
| GPTQ, 3 bits, groups of 128 | `zero_point3/128` | 0.397 | 0.398 |
| GPTQ, 2 bits, groups of 32 | `zero_point2/32` | 0.324 | 0.344 |
| GPTQ, 8 bits, groups of 128 | `zero_point8/128` | 1.027 | 1.023 |
| AWQ, 4 bits, groups of 128 | `zero_point4/128` | 0.520 | 0.523 |
| compressed-tensors, w4a16, groups of 128 | `symmetric4/128` | 0.516 | 0.516 |
| the same with zeros | `zero_point4/128` | 0.520 | 0.523 |
| compressed-tensors, w8 by row | `int8/4096` | 1.000 | 1.001 |
| compressed-tensors, fp8 by row | `fp8/4096` | 1.000 | 1.001 |
| fp8, blocks of 128 x 128 | `fp8/128` | 1.000 | 1.031 |
| fp8, one scale | `fp8/4096` | 1.000 | 1.001 |
| mxfp4 (gpt-oss, MLX, compressed-tensors) | `mxfp4` | 0.531 | 0.563 |
| mxfp8 (MLX, compressed-tensors) | `fp8/32` | 1.031 | 1.063 |
| nvfp4 (MLX, compressed-tensors) | `fp4` | 0.563 | 0.564 |
| bitsandbytes nf4 | `nf4/64` | 0.563 | 0.563 |
| the same, scales quantized | `nf4/64` | 0.520 | 0.563 |

MLX's mode `affine` is the scheme `affine`. Columns in an order of their own (GPTQ's `g_idx`) become a `permutation`.
Settings that are not understood are refused by name, and so is a module that a list leaves out and a file quantizes.

## Schemes

The shapes below are those of a matrix; arrays of a stack of matrices have its further axes in front of N.

| scheme | bits per weight | block | can quantize | same numbers as |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(map(_row, SCHEMES.values())) + "".join(map(section, SCHEMES.values()))


def _row(scheme: Scheme) -> str:
    same = f"`{scheme.affine}`" if scheme.affine else ""
    able = "yes" if scheme.can_quantize else "no"
    return f"| [{scheme.name}](#{scheme.name}) | {scheme.bits_per_weight:g} | {scheme.block} | {able} | {same} |\n"


def section(scheme: Scheme) -> str:
    """One scheme: formula, description, parameters, arrays, source."""
    about = scheme.about if isinstance(scheme, GgufBlocks) else inspect.getdoc(type(scheme)) or ""
    lines = [f"\n## {scheme.name}", "", f"`{scheme.formula}`", "", about, ""]
    if not isinstance(scheme, GgufBlocks):
        defaults = ", ".join(f"`{name}={value!r}`" for name, value in vars(scheme).items())
        lines += [f"Parameters: {defaults}. With these it is called `{scheme}`, and what follows holds for them.", ""]
    same = f", and the same numbers as `{scheme.affine}`" if scheme.affine else ""
    lines += [f"It has {scheme.bits_per_weight:g} bits per weight in blocks of {scheme.block} columns{same}.", ""]
    if isinstance(scheme, GgufBlocks):
        fields = ", ".join(f"`{name}` {size}" for name, size in scheme.fields.items())
        lines += [f"A block has {scheme.block_bytes} bytes: {fields}.", ""]
    lines += ["| array | dtype | shape |", "|---|---|---|", *_arrays(scheme), "", f"Source: {scheme.source}.", ""]
    return "\n".join(lines)


def _arrays(scheme: Scheme) -> list[str]:
    """A row of the table for each array, sizes written in N and K."""
    columns = 32 * scheme.block
    rows = columns + 1  # told apart from every size that comes from the columns

    def size(count: int) -> str:
        of_block = Fraction(count * scheme.block, columns)
        if count == rows:
            return "N"
        return "K" if of_block == scheme.block else f"K / {scheme.block}" + (f" * {of_block}" if of_block != 1 else "")

    return [
        f"| `{name}`{', may be left out' if part.optional else ''} | {' or '.join(part.dtypes)} "
        f"| `[{', '.join(map(size, part.shape))}]` |"
        for name, part in scheme.parts((rows, columns)).items()
    ]


if __name__ == "__main__":
    write(page())
