"""The few array functions that references may use. They are the array API standard's, so numpy 2 is such a namespace as
it is.

A backend gives an object with these names as `Backend.xp`, and every op runs by its reference on it. References do not
use boolean indexing, item assignment, data-dependent shapes or integer matmul.
"""

FUNCTIONS = (
    "abs",
    "add",
    "arange",
    "asarray",
    "astype",
    "bitwise_and",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "broadcast_to",
    "clip",
    "concat",
    "cos",
    "divide",
    "exp",
    "expand_dims",
    "floor",
    "isfinite",
    "isnan",
    "log",
    "logical_and",
    "logical_not",
    "logical_or",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "ones",
    "permute_dims",
    "reshape",
    "round",
    "sin",
    "sqrt",
    "squeeze",
    "stack",
    "subtract",
    "sum",
    "take",
    "tanh",
    "where",
    "zeros",
)
"""Functions of the array API standard (2023.12), with its signatures."""

DTYPES = ("bool", "float32", "float64", "int8", "int32", "int64", "uint32")
"""Dtype objects by name."""
