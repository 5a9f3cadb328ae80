"""`tinyllm models`: the families of models that are understood, the models that are known by name, and which of these
are on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyllm.cli import options


def models(as_json: options.Json = False) -> None:
    """List the families that are understood, the models known by name, and where these lie on this machine."""
    from tinyllm.cli.output import note, print_json, print_table, size
    from tinyllm.cli.session import model_name
    from tinyllm.models.download import sources
    from tinyllm.models.families.families import FAMILIES
    from tinyllm.registry.registry import default_registry

    default = model_name(None)
    rows = []
    for model in sources.KNOWN.values():
        path = find(model.name)
        rows.append(
            {
                "name": model.name,
                "description": model.description,
                "licence": model.licence,
                "bytes": model.source.size,
                "path": None if path is None else str(path),
                "default": model.name == default,
            }
        )
    families: list[dict[str, Any]] = [
        {
            "name": family.name,
            "model_types": list(family.model_types),
            "gguf": list(family.architectures),
            "plugin": family not in FAMILIES,
            "about": family.about,
        }
        for family in (*FAMILIES, *default_registry().plugins.families)
    ]
    if as_json:
        print_json({"models": rows, "families": families, "folder": str(sources.cache_folder())})
        return
    print_table(
        ["name", "size", "licence", "what", "on this machine"],
        [
            (
                f"{r['name']}{' *' if r['default'] else ''}",
                size(int(str(r["bytes"]))),
                r["licence"],
                r["description"],
                r["path"] or f"no; download it with: tinyllm pull {r['name']}",
            )
            for r in rows
        ],
    )
    print_table(
        ["family", "model_type", "GGUF architecture", "of", "what"],
        [
            (
                family["name"],
                ", ".join(family["model_types"]),
                ", ".join(family["gguf"]),
                "a plugin" if family["plugin"] else "tinyllm",
                family["about"],
            )
            for family in families
        ],
    )
    note(
        "* is used where no model is named. Folders in Hugging Face form, .gguf files and hub ids (org/name) "
        "work as well."
    )
    note(
        "The families of tinyllm are held to transformers, logits and greedy tokens, by small random models that have "
        "all of their features."
    )


def find(name: str) -> Path | None:
    """Where a known model lies on this machine, in the cache folder or an installed package; None if it is not here."""
    from tinyllm.errors import ModelNotFoundError
    from tinyllm.models.download.sources import resolve

    try:
        return resolve(name, allow_download=False)
    except ModelNotFoundError:
        return None
