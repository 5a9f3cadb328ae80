"""The one face that plugin authors import: all that a backend, a kernel, an op, a family or a declaration is made of.

`tests/plugins/test_face.py` holds its list of names: what stands here is kept, or changes with the spec version.
"""

from tinyllm.errors import BackendUnavailableError, CheckpointError, InvalidInputError, UnsupportedError, invalid
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families.family import Family
from tinyllm.plugins.backend import Backend, BackendPlugin, Probe
from tinyllm.plugins.declarations import Declaration, ExpectedFailure, Unrepeatable, Widened
from tinyllm.plugins.hookspecs import hookimpl
from tinyllm.plugins.kernel import Kernel, Supports
from tinyllm.plugins.oracle import Oracle
from tinyllm.spec.cases import BadInput, Case, Draw
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import REQUIRED, SPEC_VERSION, Attribute, Input, OpSpec, Output
from tinyllm.spec.pages import neighbours, runs
from tinyllm.spec.quantized import QuantWeight, known_scheme
from tinyllm.spec.rope import Rope, RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, inverse_frequencies
from tinyllm.spec.types import ArrayType, Call, QuantType

__all__ = [
    "REQUIRED",
    "SPEC_VERSION",
    "ArrayType",
    "Attribute",
    "Backend",
    "BackendPlugin",
    "BackendUnavailableError",
    "BadInput",
    "Call",
    "Case",
    "CheckpointError",
    "Declaration",
    "DecoderConfig",
    "Draw",
    "ExpectedFailure",
    "Family",
    "Input",
    "InvalidInputError",
    "Kernel",
    "OpSpec",
    "Oracle",
    "Output",
    "Probe",
    "QuantType",
    "QuantWeight",
    "Rope",
    "RopeScaling",
    "Supports",
    "Unrepeatable",
    "UnsupportedError",
    "Widened",
    "attention_factor",
    "hookimpl",
    "invalid",
    "inverse_frequencies",
    "known_scheme",
    "neighbours",
    "numpy_dtype",
    "runs",
]
