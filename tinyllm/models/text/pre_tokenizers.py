"""How byte-level vocabularies cut a text before they merge, by the names that GGUF files use.

A file has the name alone. The regular expressions are those of the models' own `tokenizer.json` where they are known,
and llama.cpp's (`llama-vocab.cpp`, which says which names are alike) elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenizers import Regex, pre_tokenizers


@dataclass(frozen=True)
class PreTokenizer:
    """The cuts of one name.

    cuts: regular expressions, one after the other; what they match stands alone. gpt2: whether GPT-2's own cut comes
    after them. byte_cuts: further ones, of what bytes are written as. whole_words: a word that is a token is one,
    whatever the merges say. adds_bos: whether a text begins with `bos` where the file does not say. nfc: whether a
    text is composed first.
    """

    cuts: tuple[str, ...] = ()
    gpt2: bool = False
    byte_cuts: tuple[str, ...] = ()
    whole_words: bool = False
    adds_bos: bool = False
    nfc: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        """The cuts, and the step to bytes."""
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2)
        return pre_tokenizers.Sequence([*map(_isolated, self.cuts), byte_level, *map(_isolated, self.byte_cuts)])


def _isolated(pattern: str) -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s+(?!\S)|\s+"
_LINES = rf"\s*[\r\n]+|{_BLANKS}"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _cased(suffix: str, without: str = "") -> str:
    """Words that are cut where a small letter is followed by a capital; without: an intersection with their letters."""
    before, upper, lower = r"[^\r\n\p{L}\p{N}]?", f"[{_UPPER}{without}]", f"[{_LOWER}{without}]"
    return f"{before}{upper}*{lower}+{suffix}|{before}{upper}+{lower}*{suffix}"


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_QWEN2 = rf"{_SUFFIX}|{_WORD}|\p{{N}}|{_MARKS}|{_LINES}"
_LLAMA3 = rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_MARKS}|{_LINES}"
_TEKKEN = rf"{_cased('')}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"
_GPT4O = rf"{_cased(_SUFFIX + '?')}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"
_NOT_HAN = r"&&[^\p{Han}]"
_KIMI = rf"\p{{Han}}+|{_cased(_SUFFIX + '?', _NOT_HAN)}|\p{{N}}{{1,3}}|{_MARKS}|{_LINES}"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_CHINESE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_HAN_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_ASCII_MARK_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_DEEPSEEK_WORD = rf"{_ASCII_MARK_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_DEEPSEEK3 = rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES}"
_DEEPSEEK_MARKS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    f"|[\u3105-\u312f]+|{_HAN_KANA}"
)
_HALVING = "|".join([*(rf"\s{{{2**n}}}(?!\S)" for n in range(9, 1, -1)), r"\s{1,2}(?!\S)", r"\s{1}"])
_THREES_FROM_THE_RIGHT = r"\d{1,3}(?=(?:\d{3})*\b)"
_EAST_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)

_PLAIN = PreTokenizer(gpt2=True)
_DIGITS = PreTokenizer((r"\p{N}",), gpt2=True)
_OF_QWEN2 = PreTokenizer((_QWEN2,))
_OF_LLAMA3 = PreTokenizer((_LLAMA3,))
_OF_GPT4O = PreTokenizer((_GPT4O,))
_OF_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK3))
_OF_BAILING = PreTokenizer(
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|" + _BLANKS,)
)

_ALIKE: tuple[tuple[PreTokenizer, tuple[str, ...]], ...] = (
    (_PLAIN, ("gpt-2", "phi-2", "jais", "exaone4", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum")),
    (replace(_PLAIN, nfc=True), ("mpt", "olmo")),
    (_DIGITS, ("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2")),
    (replace(_DIGITS, nfc=True), ("command-r",)),
    (replace(_OF_QWEN2, nfc=True), ("qwen2", "deepseek-r1-qwen", "f2llmv2")),
    (_OF_QWEN2, ("kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2")),
    (
        replace(_OF_LLAMA3, whole_words=True, adds_bos=True),
        ("llama-bpe", "llama-v3", "llama3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    ),
    (_OF_LLAMA3, ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe")),
    (replace(_OF_GPT4O, whole_words=True), ("gpt-4o", "llama4")),
    (_OF_GPT4O, ("kanana2", "talkie", "minimax-m2")),
    (_OF_DEEPSEEK3, ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4")),
    (_OF_BAILING, ("bailingmoe", "bailingmoe2", "llada-moe")),
    (PreTokenizer((_THREES_FROM_THE_RIGHT, _GPT4O)), ("tiny_aya", "cohere2moe")),
    (PreTokenizer((_BLOOM,)), ("bloom", "poro-chat", "gpt3-finnish")),
)
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **{name: made for made, names in _ALIKE for name in names},
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9]{3}")),
    "qwen35": PreTokenizer(
        (rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES}",),
        nfc=True,
    ),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, adds_bos=True),
    "kimi-k2": PreTokenizer((_KIMI,)),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", rf"{_SUFFIX}|{_WORD}|\p{{N}}+|{_MARKS}|{_LINES}"), whole_words=True),
    "jais-2": PreTokenizer((rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_MARKS}|\s*[\r\n]+|{_HALVING}",)),
    "falcon": PreTokenizer((r"[\p{P}$+<=>^`|~]+",), gpt2=True, byte_cuts=(r"\p{N}+", "[0-9]{3}")),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
    "deepseek-llm": PreTokenizer(
        ("[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", _DEEPSEEK_MARKS, r"\s+$", _CHINESE, r"\p{N}"),
    ),
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE, r"\p{N}")),
    "spark2_5": PreTokenizer(
        (
            r"\p{N}{1,3}",
            _HAN_KANA,
            rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_BLANKS}",
            r"\p{N}",
        )
    ),
    "afmoe": PreTokenizer((r"\p{Nd}{1,3}(?=(?:\p{Nd}{3})*(?!\p{Nd}))", _EAST_ASIAN, _DEEPSEEK3)),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "youtu": PreTokenizer(
        (_SCRIPTS, rf"{_cased(_SUFFIX + '?')}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"), whole_words=True
    ),
    "seed-coder": PreTokenizer((rf"{_SUFFIX}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES}",)),
    "ufakzeka": PreTokenizer((rf"{_WORD}|\p{{N}}|{_MARKS}|{_LINES}",)),
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", _QWEN2)),
    "exaone-moe": PreTokenizer(
        (
            rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_BLANKS}",
        )
    ),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
        ),
        gpt2=True,
        adds_bos=True,
    ),
}
"""Names of llama.cpp's list for models that write texts; those of encoders are not among them."""
CHARACTER_LEVEL = ("gemma4", "sarvam-moe")
"""Names of vocabularies that merge characters, as sentencepiece does, and not bytes."""
