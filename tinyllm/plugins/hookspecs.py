"""The whole plugin contract. A plugin is a module (entry-point group `tinyllm`) with any of these hooks, marked
`hookimpl`.

It may state `tinyllm_spec_version = 4`, the `tinyllm.spec.op_spec.SPEC_VERSION` it was written for, and is kept out
where that is another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from tinyllm.models.families.family import Family
    from tinyllm.plugins.backend import BackendPlugin
    from tinyllm.plugins.command import Command
    from tinyllm.plugins.declarations import Declaration
    from tinyllm.plugins.kernel import Kernel
    from tinyllm.plugins.oracle import Oracle
    from tinyllm.spec.op_spec import OpSpec
    from tinyllm.spec.scheme import Scheme

GROUP = "tinyllm"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def tinyllm_backends() -> list[BackendPlugin]:  # type: ignore[empty-body]
    """Backends that this plugin brings."""


@hookspec
def tinyllm_ops() -> list[OpSpec]:  # type: ignore[empty-body]
    """Op specs that this plugin adds to the catalogue."""


@hookspec
def tinyllm_kernels() -> list[Kernel]:  # type: ignore[empty-body]
    """Kernels for this plugin's backends, or for somebody else's that is registered."""


@hookspec
def tinyllm_families() -> list[Family]:  # type: ignore[empty-body]
    """Model families: how a `config.json` or the keys of a GGUF file become a `DecoderConfig`, and where the weights
    are. Each `model_type` and each GGUF architecture has one family."""


@hookspec
def tinyllm_schemes() -> list[Scheme]:  # type: ignore[empty-body]
    """Ways to quantize weights: each a `Scheme`, whose kernels, cases and docs follow from its object."""


@hookspec
def tinyllm_declarations() -> list[Declaration]:  # type: ignore[empty-body]
    """What conformance may not ask of kernels (`Widened`, `ExpectedFailure`, `Unrepeatable`), each with its reason."""


@hookspec
def tinyllm_oracles() -> list[Oracle]:  # type: ignore[empty-body]
    """Outside judges: other libraries that answer the conformance kit's cases."""


@hookspec
def tinyllm_commands() -> list[Command]:  # type: ignore[empty-body]
    """Commands that this plugin adds to `tinyllm`, each a name with what stands under it."""
