"""The one face that plugin authors import: all that a backend, a kernel, an op, a family, a command or a declaration is
made of.

`tests/plugins/test_face.py` holds its list of names: what stands here is kept, or changes with the spec version.
"""

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.bits import WORD, pack, per_column, unpack
from tinyllm.catalogue.schemes.floats import Fp4, Fp8, Nf4
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.catalogue.schemes.zero_point import ZeroPoint
from tinyllm.errors import (
    BackendUnavailableError,
    CheckpointError,
    InvalidInputError,
    ModelGoneError,
    UnsupportedError,
    invalid,
)
from tinyllm.models.decoder.config import (
    AttentionConfig,
    DecoderConfig,
    GatedDeltaConfig,
    LayerConfig,
    LayerInputConfig,
    MlpConfig,
    MoeConfig,
    NormConfig,
    RopeConfig,
    ShortConvConfig,
)
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import GGUF_NAMES, Family, GgufForm
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.tensor_rules import TensorRule, interleaved_pairs
from tinyllm.plugins.backend import Backend, BackendPlugin, BoundNode, Probe, Run
from tinyllm.plugins.command import Command
from tinyllm.plugins.declarations import Declaration, ExpectedFailure, RoundedSteps, Unrepeatable, Widened
from tinyllm.plugins.fork_guard import ForkGuard
from tinyllm.plugins.hookspecs import hookimpl
from tinyllm.plugins.kernel import ANY_SCHEME, DENSE, EVERY_CPU, Kernel, Supports
from tinyllm.plugins.oracle import Oracle
from tinyllm.spec.cases import BadInput, Case, Draw
from tinyllm.spec.communicator import Communicator, MeetingPlace, Network
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.experts import named_experts
from tinyllm.spec.op_spec import REQUIRED, SPEC_VERSION, Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.pages import neighbours, runs
from tinyllm.spec.rope import Rope, RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, frequencies_by_length, growth_exponents, inverse_frequencies
from tinyllm.spec.scheme import Part, QuantType, QuantWeight, Scheme
from tinyllm.spec.sequences import sequences
from tinyllm.spec.types import ArrayType, Call

__all__ = [
    "ANY_SCHEME",
    "DENSE",
    "EVERY_CPU",
    "GGUF_NAMES",
    "REQUIRED",
    "SPEC_VERSION",
    "WORD",
    "Affine",
    "ArrayType",
    "AttentionConfig",
    "Attribute",
    "Backend",
    "BackendPlugin",
    "BackendUnavailableError",
    "BadInput",
    "BoundNode",
    "Call",
    "Case",
    "CheckpointError",
    "Command",
    "Communicator",
    "ConfigFields",
    "Declaration",
    "DecoderConfig",
    "Draw",
    "ExpectedFailure",
    "Family",
    "ForkGuard",
    "Fp4",
    "Fp8",
    "GatedDeltaConfig",
    "GgufFields",
    "GgufForm",
    "Input",
    "Int8",
    "InvalidInputError",
    "Kernel",
    "LayerConfig",
    "LayerInputConfig",
    "MeetingPlace",
    "MlpConfig",
    "ModelGoneError",
    "MoeConfig",
    "Network",
    "Nf4",
    "NormConfig",
    "OpSpec",
    "Oracle",
    "Output",
    "Part",
    "Probe",
    "QuantType",
    "QuantWeight",
    "Rope",
    "RopeConfig",
    "RopeScaling",
    "RoundedSteps",
    "Run",
    "Scheme",
    "ShortConvConfig",
    "Supports",
    "TensorRule",
    "Unrepeatable",
    "UnsupportedError",
    "Widened",
    "ZeroPoint",
    "attention_factor",
    "config_of_gguf",
    "frequencies_by_length",
    "growth_exponents",
    "hookimpl",
    "interleaved_pairs",
    "invalid",
    "inverse_frequencies",
    "named_experts",
    "neighbours",
    "numpy_dtype",
    "pack",
    "per_column",
    "runs",
    "sequences",
    "unpack",
]
