"""What ends a turn: tokens known by their text, and what a chat template writes after a reply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models

from tests.models.conftest import MERGES, byte_level_vocabulary, write_gguf
from tinyllm.llm import load
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.turn_ends import KNOWN_ENDS, turn_ends

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*byte_level_vocabulary()[:-2], *CONTROLS]
ENDOFTEXT, START, END = range(len(TOKENS) - 3, len(TOKENS))


def tokenizer(*special: str) -> Tokenizer:
    made = tokenizers.Tokenizer(models.BPE({"a": 0, "<plain>": 1}, []))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special))
    made.add_tokens(["<shown>"])
    return Tokenizer(made, "made")


def texts(made: Tokenizer, template: str | None) -> set[str]:
    ends = turn_ends(made, None if template is None else ChatTemplate({"default": template}, {"eos_token": "<e>"}))
    return {text for text, index in made.special_tokens.items() if index in ends}


@pytest.mark.parametrize("end", sorted(KNOWN_ENDS))
def test_known_ends_end_a_turn_where_they_are_control_tokens(end: str) -> None:
    assert texts(tokenizer("<x>", end), None) == {end}
    assert texts(tokenizer("<x>"), None) == set()


def test_a_message_within_a_turn_of_harmony_does_not_end_it() -> None:
    assert texts(tokenizer("<|end|>", "<|return|>", "<|call|>"), None) == {"<|return|>", "<|call|>"}


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        ("{% for m in messages %}<s>{{ m.role }}: {{ m.content }}<e>\n{% endfor %}", {"<e>"}),
        ("{% for m in messages %}<s>{{ m.content }} {{ eos_token }}{% endfor %}", {"<e>"}),
        ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}", {"<|user|>"}),
        ("{% for m in messages %}{{ m.content }}<e><s>{% endfor %}", {"<e>"}),
        ("{% for m in messages %}{{ m.content }}<e>x{% endfor %}", {"<e>"}),
        ("{% for m in messages %}{{ m.content }}<ee>{% endfor %}", {"<ee>"}),
        ("{% for m in messages %}{{ m.content }}<plain>{% endfor %}", set()),
        ("{% for m in messages %}{{ m.content }}<shown>{% endfor %}", set()),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}<e>", {"<e>"}),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }} and <e>{% endfor %}", set()),
        ("{% for m in messages if m.role == 'user' %}<e>{{ m.content }}{% endfor %}", set()),
        ("{{ raise_exception('no') }}", set()),
        ("{% if %}", set()),
    ],
)
def test_what_a_template_writes_after_a_reply_ends_a_turn(template: str, ends: set[str]) -> None:
    assert texts(tokenizer("<s>", "<e>", "<ee>", "<|user|>", "<|assistant|>"), template) == ends


def gguf_without_eot(folder: Path, end_type: gguf.TokenType = gguf.TokenType.CONTROL) -> Path:
    random = np.random.default_rng(5)
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.token_type": [1] * (len(TOKENS) - 3) + [3, 3, int(end_type)],
        "tokenizer.ggml.eos_token_id": ENDOFTEXT,
        "tokenizer.chat_template": CHATML,
    }
    table = {"token_embd.weight": random.standard_normal((len(TOKENS), 64)).astype(np.float32)}
    return write_gguf(folder / "m.gguf", keys=keys, tensors=table)


def folder_without_eot(folder: Path) -> Path:
    made = tokenizers.Tokenizer(
        models.BPE({token: index for index, token in enumerate(TOKENS)}, [tuple(m.split(" ")) for m in MERGES])
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(CONTROLS)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def test_a_known_end_that_a_gguf_file_calls_a_users_own_ends_a_turn(tmp_path: Path) -> None:
    """As llama.cpp's converter has `<|tool_response>` of Gemma 4."""
    llm = load(gguf_without_eot(tmp_path, gguf.TokenType.USER_DEFINED), "numpy")
    assert llm.stop_token_ids == {ENDOFTEXT, END}
    assert llm.tokenizer.encode("hello<|im_end|>")[-1] == END and llm.tokenizer.decode([END]) == ""


@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_a_reply_ends_with_its_turn_though_no_file_says_so(kind: str, tmp_path: Path, tiny_folder: Any) -> None:
    path = gguf_without_eot(tmp_path) if kind == "gguf" else folder_without_eot(tiny_folder("llama", eos_token_id=None))
    llm = load(path, "numpy")
    assert llm.stop_token_ids == {ENDOFTEXT, END}
    forced = {"logit_bias": {END: 100}, "max_tokens": 5}
    reply = llm.generate("hello", **forced)
    assert (reply.text, reply.token_ids, reply.finish_reason) == ("", [], "stop")
    assert llm.generate("hello", ignore_eos=True, **forced).token_ids == [END] * 5
