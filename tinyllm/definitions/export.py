"""Writes definitions and workloads to a folder, as FlashInfer-Bench lays out a trace set.

`definitions/OP/NAME.json`, `workloads/OP/NAME.jsonl`, and integers in `blob/workloads/OP/NAME/UUID.safetensors`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinyllm.definitions.collect import Collection
from tinyllm.definitions.definition import ATTRIBUTE, Definition
from tinyllm.definitions.reference import reference_source
from tinyllm.definitions.workload import write_arrays
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.spec.attribute_json import encoded


def document(definition: Definition, about: str = "") -> dict[str, Any]:
    """A definition as the schema writes it; `about` is put behind the op's summary.

    Raises:
        UnsupportedError: its reference cannot stand alone.
    """
    spec = definition.spec
    axes = {
        n: {"type": "const", "value": s} if isinstance(s, int) else {"type": "var"} for n, s in definition.axes.items()
    }
    return {
        "name": definition.name,
        "op_type": spec.name,
        "description": f"{spec.summary} {about}".strip(),
        "tags": [f"{ATTRIBUTE}{name}={json.dumps(encoded(value))}" for name, value in definition.attributes.items()],
        "axes": axes,
        "constraints": list(definition.constraints),
        "inputs": {name: tensor.to_json() for name, tensor in definition.inputs.items()},
        "outputs": {name: tensor.to_json() for name, tensor in definition.outputs.items()},
        "reference": reference_source(definition),
    }


def check_folder(folder: Path) -> None:
    """Raises `InvalidInputError` unless the folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"export-definitions: --out: expected a new or empty folder, got {folder}")


def write(found: Collection, folder: Path) -> list[str]:
    """Write a collection into a folder; the names of what was written. What has no reference of its own joins
    `left_out`.

    Raises:
        InvalidInputError: the folder is neither new nor empty, or cannot be made or written to.
    """
    check_folder(folder)
    written = []
    try:
        for name, definition in found.definitions.items():
            scheme = found.dense.get(name)
            about = f"Here its weights are floats; the model has them in {scheme}." if scheme else ""
            try:
                text = json.dumps(document(definition, about), indent=2) + "\n"
            except UnsupportedError as error:
                found.left_out.setdefault(definition.spec.name, str(error))
                continue
            _write_one(folder, definition, found, text)
            written.append(name)
    except OSError as error:
        raise InvalidInputError(f"export-definitions: --out: {folder}: {error.strerror}") from error
    return written


def _write_one(folder: Path, definition: Definition, found: Collection, text: str) -> None:
    op, name = definition.spec.name, definition.name
    blobs = Path("blob", "workloads", op, name)
    for part in ("definitions", "workloads"):
        (folder / part / op).mkdir(parents=True, exist_ok=True)
    (folder / "definitions" / op / f"{name}.json").write_text(text, encoding="utf-8")
    lines = []
    for workload in found.workloads[name].values():
        blob = blobs / f"{workload.uuid}.safetensors"
        if workload.values:
            (folder / blobs).mkdir(parents=True, exist_ok=True)
            write_arrays(folder / blob, workload.values)
        lines.append(json.dumps(workload.to_json(definition, blob.as_posix())) + "\n")
    (folder / "workloads" / op / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
