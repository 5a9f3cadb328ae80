"""FlashInfer-Bench's files, as far as they are read here; fields that are not named are left unread."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from tinyllm.errors import InvalidInputError, quoted

Name = Annotated[str, StringConstraints(min_length=1)]
Model = TypeVar("Model", bound=BaseModel)


class AxisFile(BaseModel):
    """An axis of one size, or one that varies."""

    type: Literal["const", "var"]
    value: Annotated[int, Field(ge=0)] | None = None


class TensorFile(BaseModel):
    """An input or output; shape None: a scalar."""

    shape: list[Name] | None
    dtype: Name


class DefinitionFile(BaseModel):
    """A definition."""

    name: Name
    op_type: Name
    axes: dict[Name, AxisFile]
    inputs: dict[Name, TensorFile]
    outputs: dict[Name, TensorFile]
    tags: list[str] = []
    constraints: list[str] = []


class InputFile(BaseModel):
    """How an input of a workload is made."""

    type: Literal["random", "scalar", "safetensors"]
    value: float | None = None
    path: str = ""
    tensor_key: str = ""


class WorkloadFile(BaseModel):
    """One call."""

    axes: dict[Name, Annotated[int, Field(ge=0)]]
    inputs: dict[Name, InputFile]


class TraceFile(BaseModel):
    """A line of workloads."""

    workload: WorkloadFile


class SourceFile(BaseModel):
    """A source of a solution."""

    path: Name
    content: str


class BuildFile(BaseModel):
    """How a solution is built and called."""

    language: Name
    entry_point: Annotated[str, StringConstraints(pattern=r"^[^:]+::[A-Za-z_]\w*$")]
    destination_passing_style: bool = True


class SolutionFile(BaseModel):
    """A solution."""

    name: Name
    definition: Name
    spec: BuildFile
    sources: Annotated[list[SourceFile], Field(min_length=1)]


def read(model: type[Model], path: Path) -> Model:
    """A file as a model.

    Raises:
        InvalidInputError: it cannot be read, is no JSON, or a field is not what it has to be; names the file and the
            field.
    """
    return parsed(model, text_of(path), str(path))


def text_of(path: Path) -> str:
    """The text of a file. Raises `InvalidInputError` where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: is no text file") from error


def parsed(model: type[Model], text: str, where: str) -> Model:
    """A text as a model. Raises as `read`; `where` begins the message."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        got = "" if first["type"] in ("json_invalid", "missing") else f", got {quoted(first['input'])}"
        raise InvalidInputError(f"{where}: {field + ': ' if field else ''}{first['msg']}{got}") from error


def inside(path: str) -> bool:
    """Whether a path of a source stays in its folder."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and ":" not in path
