"""The specs as custom ops of PyTorch, `torch.ops.tinyllm.rms_norm`: compiled models call any backend's kernels.

What PyTorch traces it must know by a schema: tensors, numbers, booleans, words, lists of integers. So an op fits whose
outputs have a fixed number, or come as one list, and are arrays of their own. `fits` says why one does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from tinyllm.errors import InvalidInputError
from tinyllm.registry.registry import Registry, default_registry
from tinyllm.spec.op_spec import REQUIRED, Attribute, OpSpec
from tinyllm.spec.types import ArrayType, Call
from tinyllm.spec.validation import check_call, check_names, output_types
from tinyllm_torch.backend import NAMES, TorchBackend

PROBES = (("bool", True), ("float", 0.5), ("float", 1.5), ("int", 2), ("int[]", (1, 1)))
"""Schema types, each with a value: an attribute is of the first type whose value its check takes."""


@dataclass(frozen=True)
class CustomOps:
    """The ops of one namespace, `torch.ops.NAMESPACE.NAME`. They are gone when it is closed.

    names: what is registered. left_out: why an op is not. without: per op the attributes that a schema has no type for,
    which stay at their defaults.
    """

    namespace: str
    backend: str
    names: tuple[str, ...]
    left_out: Mapping[str, str]
    without: Mapping[str, tuple[str, ...]]
    library: torch.library.Library

    def close(self) -> None:
        """Take the ops out of PyTorch. What was compiled with them must not be called any more."""
        self.library._destroy()  # type: ignore[no-untyped-call]

    def __enter__(self) -> CustomOps:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def register_custom_ops(
    backend: str = "torch", *, namespace: str = "tinyllm", registry: Registry | None = None
) -> CustomOps:
    """Register every op that fits, run by a backend's kernels; the namespace is the whole process's.

    Args:
        backend: whose kernels run: tensors reach another library than PyTorch as numpy arrays, on a CPU without a copy.
        namespace: a second registration beside the first, for another backend, needs a name of its own.

    Raises:
        InvalidInputError: the namespace is taken, or is no name. Otherwise as `Registry.backend`.
    """
    registry = registry or default_registry()
    loaded = registry.backend(backend)
    if not namespace.isidentifier():
        raise InvalidInputError(f"register_custom_ops: namespace: expected an identifier, got {namespace!r}")
    if any(name.startswith(f"{namespace}::") for name in torch._C._dispatch_get_all_op_names()):
        raise InvalidInputError(f"register_custom_ops: namespace: expected a free one, {namespace!r} is taken")
    left_out = {name: why for name, spec in registry.specs.items() if (why := fits(spec))}
    names = tuple(name for name in registry.specs if name not in left_out)
    without = {name: gone for name in names if (gone := _without_type(registry.specs[name]))}
    library = torch.library.Library(namespace, "DEF")  # type: ignore[no-untyped-call]
    for name in names:
        _register(library, registry, registry.specs[name], f"{loaded.name}:{loaded.device}")
    return CustomOps(namespace, backend, names, left_out, without, library)


def fits(spec: OpSpec) -> str:
    """Why an op cannot be a custom op, or nothing."""
    if any(i.kind == "quant" for i in spec.inputs) or any(o.dtype == "quant" for o in spec.outputs):
        return "takes or gives a quantized weight, which is no tensor"
    if spec.consumes:
        return f"consumes {', '.join(spec.consumes)}, and gives it back: an output would be an input's memory"
    if any(output.shape.startswith("?") for output in spec.outputs):
        return "how many outputs it gives depends on its attributes"
    untyped = [a.name for a in spec.attributes if a.default is REQUIRED and not _type(a)]
    return f"a schema has no type for {', '.join(untyped)}" if untyped else ""


def schema(spec: OpSpec) -> str:
    """The op as PyTorch's schema language says it: `(Tensor x, Tensor weight, *, float eps=1e-06) -> Tensor`."""
    words = [f"Tensor {i.name}" for i in spec.positional]
    named = [f"Tensor? {i.name}=None" for i in spec.keyword]
    named += [f"{kind} {a.name}{_default(a)}" for a in spec.attributes if (kind := _type(a))]
    given = ", ".join([*words, *(("*", *named) if named else ())])
    if spec.gives_many:
        return f"({given}) -> Tensor[]"
    outputs = ", ".join("Tensor" for _ in spec.outputs)
    return f"({given}) -> {outputs if len(spec.outputs) == 1 else f'({outputs})'}"


def _type(attribute: Attribute) -> str:
    """The schema type of an attribute; empty where there is none."""
    default = attribute.default
    if isinstance(default, str):
        return "str"
    kind = next((kind for kind, value in PROBES if attribute.check(value) is None), "")
    return f"{kind}?" if kind and default is None else kind


def _default(attribute: Attribute) -> str:
    default = attribute.default
    if default is REQUIRED:
        return ""
    if isinstance(default, str):
        return f'="{default}"'
    return f"={list(default)}" if isinstance(default, tuple) else f"={default}"


def _without_type(spec: OpSpec) -> tuple[str, ...]:
    return tuple(a.name for a in spec.attributes if not _type(a))


def _register(library: torch.library.Library, registry: Registry, spec: OpSpec, backend: str) -> None:
    """Schema, the kernel, and what tells shapes and dtypes without computing."""
    name = f"{library.ns}::{spec.name}"
    torch.library.define(name, schema(spec), lib=library, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(name, ("cpu", "cuda", "mps"), _kernel(registry, spec, backend), lib=library)
    torch.library.register_fake(name, _fake(spec), lib=library)


def _arguments(spec: OpSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """By name, lists as the tuples that they are in a spec; what is None was left out."""
    given = check_names(spec, args, kwargs)
    return {n: tuple(v) if isinstance(v, list) else v for n, v in given.items() if v is not None}


def _kernel(registry: Registry, spec: OpSpec, backend: str) -> Callable[..., Any]:
    """The call as the registry makes it."""
    dispatch, own = registry.dispatcher(spec.name), backend.partition(":")[0] == TorchBackend.name
    inputs = [i.name for i in spec.inputs]

    def run(*args: Any, **kwargs: Any) -> Any:
        given = _arguments(spec, args, kwargs)
        tensors = {name: given[name].detach() for name in inputs if name in given}
        here = _library(next(iter(tensors.values())).device.type)
        arrays = tensors if own else {name: here.to_numpy(tensor) for name, tensor in tensors.items()}
        named = {n: arrays.get(n, value) for n, value in given.items()}
        positional = tuple(named.pop(i.name) for i in spec.positional)
        result = dispatch(positional, named, None if own else backend)
        if isinstance(result, tuple):
            parts = [_of_its_own(here, part, tensors) for part in result]
            return parts if spec.gives_many else tuple(parts)
        return _of_its_own(here, result, tensors)

    return run


@cache
def _library(device: str) -> TorchBackend:
    """What makes numpy arrays of tensors of a device, and tensors there of numpy arrays."""
    return TorchBackend(device)


def _of_its_own(backend: TorchBackend, output: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """An output as a tensor that lies where no input does, in the order of its axes, as the fake says."""
    tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else backend.from_numpy(output)
    place = tensor.untyped_storage().data_ptr()
    shared = any(place == value.untyped_storage().data_ptr() for value in inputs.values())
    return tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()


def _fake(spec: OpSpec) -> Callable[..., Any]:
    """Shapes and dtypes, as the spec's own validation finds them."""

    def run(*args: Any, **kwargs: Any) -> Any:
        given = _arguments(spec, args, kwargs)
        tensors = {i.name: given[i.name] for i in spec.inputs if i.name in given}
        attributes = {a.name: given[a.name] for a in spec.attributes if a.name in given}

        def call(size: Callable[[Any], Any]) -> Call:
            types = {n: ArrayType(tuple(map(size, t.shape)), NAMES[t.dtype]) for n, t in tensors.items()}
            return check_call(spec, types, attributes)

        try:
            checked = call(lambda size: size)
        except InvalidInputError:  # or a size must be a number: fixed, so that PyTorch traces anew for another one
            checked = call(int)
        like = next(iter(tensors.values()))
        made = [like.new_empty(kind.shape, dtype=getattr(torch, kind.dtype)) for kind in output_types(spec, checked)]
        return made if spec.gives_many else tuple(made) if len(made) != 1 else made[0]

    return run
