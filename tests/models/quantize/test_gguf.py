"""GGUF files of fewer bits: what the gguf package reads of them, and that all else is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.llm.families.gguf_writer import by_neighbours
from tests.llm.families.gguf_writer import write_gguf as gguf_of
from tests.models.conftest import write_gguf
from tests.models.quantize.tiny import MODELS, assert_near, weights
from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllm.models.checkpoints.safetensors import SafetensorsCheckpoint
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.quantize.gguf_file import TYPES
from tinyllm.models.quantize.run import affine, quantize
from tinyllm.spec.quantized import dense


@pytest.mark.parametrize("kind", TYPES)
def test_the_gguf_package_reads_it(kind: str, tmp_path: Path) -> None:
    """Matrices as its own quantizer makes them, the rest as it was; every key but that of the file's type."""
    source = write_gguf(tmp_path / "source.gguf", tensors={"rope_freqs.weight": np.ones(8, np.float32)})
    out = tmp_path / "out.gguf"
    quantize(source, out, kind, kept=["blk.1.attn_v.*"])
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(out)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        as_it_was = old.name == "blk.1.attn_v.weight" or len(old.shape) == 1
        expected = old.data if as_it_was else gguf.quants.quantize(old.data, gguf.GGMLQuantizationType[kind])
        assert new.tensor_type.name == ("F32" if as_it_was else kind)
        np.testing.assert_array_equal(new.data, expected)
    told = [{name: (f.types, f.contents()) for name, f in r.fields.items() if "." in name} for r in (before, after)]
    for keys in told:
        for key in ("general.file_type", "general.quantization_version", "GGUF.tensor_count", "GGUF.kv_count"):
            keys.pop(key, None)
    assert told[0] == told[1]
    assert after.fields["general.file_type"].contents() == TYPES[kind]


@pytest.mark.parametrize("model", ["llama", "qwen3_moe"])
def test_every_weight_is_the_original_within_half_a_step(model: str, tmp_path: Path) -> None:
    """Stacks of experts too, and those of rows in another order; a step of Q4_0 more at the end that has no level."""
    mixture = model == "qwen3_moe"
    tiny = MODELS[model]
    type(tiny)(tiny.classes, tiny.config | ({"mlp_only_layers": []} if mixture else {})).save(tmp_path)
    keys = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32} if mixture else {}
    source = gguf_of(tmp_path, model.replace("_", ""), keys, None if mixture else by_neighbours(16))
    for kind, steps in (("Q8_0", 0.5), ("Q4_0", 1.0)):
        out = tmp_path / f"{kind}.gguf"
        quantize(source, out, kind)
        assert any(".experts." in name for name in assert_near(out, source, steps=steps)) == mixture


def test_a_file_in_parts_becomes_one(tmp_path: Path) -> None:
    """Which says nothing of parts."""
    keys = {"split.no": (0, gguf.GGUFValueType.UINT16), "split.count": (1, gguf.GGUFValueType.UINT16)}
    source = write_gguf(tmp_path / "source.gguf", keys=keys)
    quantize(source, tmp_path / "out.gguf", "Q8_0")
    assert not any(name.startswith("split.") for name in gguf.GGUFReader(tmp_path / "out.gguf").fields)


def test_another_alignment_stays(tmp_path: Path) -> None:
    """A tensor begins where the file says that it does."""
    source = write_gguf(tmp_path / "source.gguf")
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(aligned := tmp_path / "aligned.gguf", "llama")
    writer.add_custom_alignment(128)
    for field in reader.fields.values():
        if "." in field.name and field.name != "general.architecture" and not field.name.startswith("GGUF."):
            items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], items)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantize(aligned, out := tmp_path / "out.gguf", "Q8_0")
    assert all(tensor.data_offset % 128 == 0 for tensor in gguf.GGUFReader(out).tensors)
    assert_near(out, source)


def test_the_vocabulary_of_a_gguf_becomes_files(tmp_path: Path) -> None:
    """From which text has the same tokens, and ends by the same; templates have their names."""
    keys: dict[str, Any] = {
        "tokenizer.chat_template": "{{ messages[0].content }}",
        "tokenizer.chat_template.tools": "tools",
        "tokenizer.ggml.add_bos_token": True,
        "general.sampling.temp": 0.5,
    }
    source = write_gguf(tmp_path / "source.gguf", keys=keys)
    quantize(source, out := tmp_path / "out", affine(8, 32))
    ours, theirs = SafetensorsCheckpoint(out), GgufCheckpoint(source, FAMILIES)
    text = "hello world 12 <|im_start|>x<|im_end|> über"
    for special in (False, True):
        ids = theirs.tokenizer().encode(text, special)
        assert ours.tokenizer().encode(text, special) == ids
        assert ours.tokenizer().decode(ids) == theirs.tokenizer().decode(ids)
    assert ours.tokenizer().eos_token_ids == theirs.tokenizer().eos_token_ids
    assert ours.generation_config()[0]["temperature"] == 0.5
    assert (out / "chat_template.jinja").read_text() == keys["tokenizer.chat_template"]
    assert (out / "additional_chat_templates" / "tools.jinja").read_text() == "tools"
    transformers = pytest.importorskip("transformers")
    judge = transformers.AutoTokenizer.from_pretrained(out)
    assert judge(text)["input_ids"] == ours.tokenizer().encode(text, True)


@pytest.mark.slow
def test_smollm2_becomes_a_folder_and_comes_back(smollm2_path: Path, tmp_path: Path) -> None:
    """Its matrices are four bits already, and of this form: only rounding to float16 is between them."""
    quantize(smollm2_path, out := tmp_path / "out", affine(4, 32), kept=["model.embed_tokens.weight"])
    original = GgufCheckpoint(smollm2_path, FAMILIES).read("blk.3.ffn_down.weight")
    made = SafetensorsCheckpoint(out).read("model.layers.3.mlp.down_proj.weight")
    wanted, found = (np.asarray(dense(np, w, np.float32)) for w in (original, made))
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_kept_matrices_of_a_gguf_file_become_floats(tmp_path: Path) -> None:
    """Those that folders merge, too: nothing in a folder has GGUF's blocks."""
    MODELS["phi3"].save(tmp_path)
    quantize(gguf_of(tmp_path, "phi3"), four := tmp_path / "four.gguf", "Q4_0")
    quantize(four, kept := tmp_path / "kept", affine(4, 32), kept=["*"])
    for (name, _, found), (_, _, wanted) in zip(weights(kept), weights(four), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6, err_msg=name)
