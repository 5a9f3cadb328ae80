"""Writes docs/families.md from the families: `python -m tinyllm.models.families.docs docs/families.md`."""

from __future__ import annotations

from tinyllm.catalogue.docs import write
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.families.family import Family

HEAD = """# Model families

Made from the objects in `tinyllm/models/families/`; do not edit (`make docs` writes it anew). `tinyllm models` lists
the same, and the families of plugins that are installed.

A family is one file. It says what makes a `DecoderConfig` of a `config.json`, where the decoder's weights are in the
files, and the same for GGUF files. There is one decoder for all of them, made layer by layer as the config says.
Whatever a config has that would change the output and is not understood is refused by the name of the field, as is a
tensor that is missing, surplus or of another shape. Of a model that is of no family the error says which one is nearest
by its fields, and which of them stand in the way.

Each is held to transformers by small random models that have all of its features: the logits of a prompt in one piece,
step by step, in chunks and beside other prompts, and the tokens of a greedy reply, on each backend
(`tests/llm/families/`). Where it has GGUF files, the same model written as one has the same logits. A family without an
architecture of its own has files that call themselves by that of the family that its row names.

| family | `model_type` | GGUF architecture | what it is |
|---|---|---|---|
"""
TAIL = """
Of models that read pictures (those with a `text_config`) the decoder is loaded, under whichever name its tensors have.
The tensors for pictures and sounds are skipped, which `--verbose` tells; a message with a picture is refused.

## How one is added

Say that Granite is missing: Llama with four numbers more. `tinyllm/models/families/granite.py` is the whole of it.

1. **The config.** `granite(config)` reads fields by `ConfigFields`, which checks kinds and ranges (`ranges.py` has the
   ranges) and remembers what was read. `attention(fields, ...)` and `decoder("granite", fields, ...)` read what
   families share; the latter refuses what nobody read. Fields that must have one value are named by `fields.only`. The
   numbers that are Granite's own go where `tinyllm/models/decoder/config.py` has a place for them, such as
   `residual_multiplier` of a `LayerConfig`. A feature that has none yet becomes a field there, with a default that
   changes nothing, and is used in `decoder.py`, `attention.py` or `mlp.py`: never by the name of a family.
2. **The names.** The weights of the graph have Llama's names. Where files have others, a `TensorRule` says which:
   renamed (`renamed`), merged (`MERGED_QKV`), a tensor for each expert, transposed, in another order of rows, or with a
   number added. Granite needs none.
3. **GGUF.** `GgufForm` has the names of the architecture, a function that makes the `config.json` of the file's keys
   (`config_of_gguf` reads those that all share), and rules for its tensors. Granite's queries and keys lie in another
   order (`ROTATED_BY_NEIGHBOURS`), as Llama's do. `tinyllm quantize` writes such files by the same form, with the keys
   that the function asks for; `keys` has those whose meaning is not that in `gguf_keys`, as Granite's `logit_scale`.
4. **The list.** Name it in `families.py`, and run `make docs`.
5. **The proof.** `tests/llm/families/test_granite.py`: small models by `Tiny`, whose weights are large enough that
   every feature moves the logits; `assert_is_the_judges` for each backend, `assert_same_logits` for the file that
   `write_gguf` makes. Take each feature out once, and see the test fail. transformers' own config passes whole; a field
   out of range is named.

The same file outside of tinyllm is a [plugin](plugins.md#a-family).
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(map(_row, FAMILIES)) + TAIL


def _row(family: Family) -> str:
    kinds, architectures = (
        ", ".join(f"`{name}`" for name in names) for names in (family.model_types, family.architectures)
    )
    return f"| {family.name} | {kinds} | {architectures} | {family.about} |\n"


if __name__ == "__main__":
    write(page())
