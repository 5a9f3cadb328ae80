"""What every checkpoint gives, whatever its file format: a config, named tensors and a tokenizer."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

from tinyllm.errors import CheckpointError, InvalidInputError, quoted, shortened
from tinyllm.spec.quantized import check_quant_weight
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import ArrayType

DTYPES = ("float16", "bfloat16", "float32")
"""Of weights that are not quantized. A model's numbers are never narrowed in silence, so float64 is not among them."""

if TYPE_CHECKING:
    from tinyllm.models.text.chat_template import ChatTemplate
    from tinyllm.models.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TensorInfo:
    """A tensor without its numbers: what `read` will give, and its bytes in the file."""

    type: ArrayType | QuantType
    nbytes: int
    order: str = ""
    """What tells the order of its columns from that of others, where it is one of their own: weights of one order alone
    are stacked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per axis."""
        return tuple(int(size) for size in self.type.shape)

    @property
    def dtype(self) -> str:
        """A numpy dtype name, or that of a scheme with its parameters, e.g. `affine4/32`."""
        return self.type.dtype if isinstance(self.type, ArrayType) else str(self.type.scheme)


class Checkpoint(ABC):
    """A model on disk, its tensors by the names that the file has. No tensor is read before it is asked for.

    `config` has the form of `config.json` in every format.
    """

    format: ClassVar[Literal["safetensors", "gguf"]]
    path: Path
    identity: str
    """What tells its numbers from those of any other: the path, size and time of each file that has tensors."""
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """What people call it: the name of its `.gguf` file or its folder, `org/name` of one that came from a hub."""
        path = Path(os.path.abspath(self.path))
        folder = path.parent if path.suffix == ".safetensors" else path
        if folder.parent.name == "snapshots":  # models--org--name/snapshots/revision
            return folder.parents[1].name.removeprefix("models--").replace("--", "/")
        return folder.name

    @abstractmethod
    def tensor_names(self) -> tuple[str, ...]:
        """All tensors, in the order of the file."""

    def name_in_file(self, name: str) -> str:
        """A tensor's name as the file has it. Raises `CheckpointError` for a name that is not there."""
        return name

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """Shape, dtype and size of a tensor. Raises `CheckpointError` for a name that is not there."""

    @abstractmethod
    def read(self, name: str) -> NDArray[Any] | QuantWeight:
        """A tensor: a read-only array (a view on the file where the format allows; bfloat16 by `ml_dtypes`) or a
        `QuantWeight`.

        Raises `CheckpointError` for a name that is not there.
        """

    @abstractmethod
    def release(self) -> None:
        """Let go of the file's pages in memory. Views that `read` gave stay valid: their pages come back when they are
        used."""

    @abstractmethod
    def generation_config(self) -> tuple[dict[str, Any], str]:
        """What the files say of how to generate, in the form of `generation_config.json`, and the name of the file that
        does. Empty where none does."""

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that came with the model. Raises `CheckpointError` where there is none."""

    @abstractmethod
    def chat_template(self) -> ChatTemplate | None:
        """The chat template that came with the model, or None."""


def check_layers(checkpoint: Checkpoint, layers: int) -> None:
    """Raises `CheckpointError` for more layers than the file can have, as each needs tensors: to be called before
    anything is made for each of them."""
    if layers > (tensors := len(checkpoint.tensor_names())):
        raise CheckpointError(
            f"{checkpoint.path}: num_hidden_layers: expected no more than the file's {tensors} tensors, got {layers}"
        )


def check_tensors(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], unused: Collection[str] = ()
) -> list[str]:
    """Holds a checkpoint against the tensors that a model needs; gives the names of surplus ones that are skipped.

    unused: names that the model can do without, as an output matrix that repeats the embedding. Harmless are
    `*rotary_emb.inv_freq` as well, which follow from the config, and biases of zeros, which GPTQ's tools wrote for
    layers that have none.
    Raises `CheckpointError` naming missing and other surplus tensors, and shapes and dtypes expected and got; what is
    there by its name in the file.
    """
    there = checkpoint.tensor_names()
    surplus = [name for name in there if name not in expected]
    skipped = [
        name
        for name in surplus
        if name.endswith("rotary_emb.inv_freq") or name in unused or _adds_nothing(checkpoint, name)
    ]
    present = set(there)
    problems = []
    if missing := [name for name in expected if name not in present]:
        problems.append(f"missing {_some(missing)}")
    if unknown := [name for name in surplus if name not in skipped]:
        problems.append(f"surplus {_some([checkpoint.name_in_file(name) for name in unknown])}")
    infos = {name: checkpoint.info(name) for name in expected if name in present}
    shapes = ((checkpoint.name_in_file(name), list(expected[name]), list(info.shape)) for name, info in infos.items())
    if wrong := [f"{name} (expected {want}, got {got})" for name, want, got in shapes if want != got]:
        problems.append(f"wrong shape {_some(wrong)}")
    foreign = {
        checkpoint.name_in_file(name): info.dtype
        for name, info in infos.items()
        if isinstance(info.type, ArrayType) and info.dtype not in DTYPES
    }
    if kinds := [f"{name} (expected {' or '.join(DTYPES)}, got {dtype})" for name, dtype in foreign.items()]:
        advice = ", cast to float32 before saving" if "float64" in foreign.values() else ""
        problems.append(f"wrong dtype {_some(kinds)}{advice}")
    if problems:
        raise CheckpointError(f"{checkpoint.path}: tensors do not fit the config: {'; '.join(problems)}")
    return skipped


def _adds_nothing(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is a bias of zeros."""
    if not name.endswith(".bias") or len(checkpoint.info(name).shape) != 1:
        return False
    bias = checkpoint.read(name)
    return not isinstance(bias, QuantWeight) and not bias.any()


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its write flag off."""
    array.flags.writeable = False
    return array


def checked_weight(where: str, name: str, weight: QuantWeight) -> QuantWeight:
    """The weight, made from what a file says. Raises `CheckpointError` where that does not fit together."""
    try:
        check_quant_weight(where, name, weight)
    except InvalidInputError as error:
        raise CheckpointError(str(error)) from error
    return weight


def missing_tensor(checkpoint: Checkpoint, name: str) -> CheckpointError:
    """The error for a tensor that a checkpoint does not hold."""
    return CheckpointError(f"{checkpoint.path}: no tensor {quoted(name)}")


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shortened, names[:limit])) + more
