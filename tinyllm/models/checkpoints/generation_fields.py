"""The fields of `generation_config.json`: which of them change what is generated, and at which values they do not.

Source: transformers' `GenerationConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "stop_strings": ([],),
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "max_length": (20,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ([], {}),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "typical_p": (1,),
}
"""Values at which a field asks for nothing: of those that tinyllm does, and of those that it does not."""
# They tell of tokens that the tokenizer and the stop tokens go by, of beams, which are named where there are any, and
# of how transformers computes and what it gives back.
_HARMLESS = frozenset(
    {
        "_from_model_config",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_lookbehind",
        "bos_token_id",
        "cache_config",
        "cache_implementation",
        "chat_format",
        "compile_config",
        "continuous_batching_config",
        "decoder_start_token_id",
        "disable_compile",
        "do_sample",
        "early_stopping",
        "eos_token_id",
        "is_assistant",
        "length_penalty",
        "low_memory",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "prefill_chunk_size",
        "prompt_lookup_num_tokens",
        "remove_invalid_values",
        "renormalize_logits",
        "return_dict_in_generate",
        "return_legacy_cache",
        "target_lookbehind",
        "transformers_version",
        "use_cache",
    }
)


def asked_of(config: Mapping[str, Any], context: int) -> dict[str, Any]:
    """The fields that change what is generated, but for `do_sample`.

    context: of the model; a `max_length` that is no less asks for nothing.
    """
    said = {name: value for name, value in config.items() if value is not None and not _is_neutral(name, value)}
    length = said.get("max_length")
    if isinstance(length, int) and length >= context:
        del said["max_length"]
    return {name: value for name, value in said.items() if name not in _HARMLESS}


def _is_neutral(name: str, value: Any) -> bool:
    return any(value == neutral for neutral in NEUTRAL.get(name, ()))
