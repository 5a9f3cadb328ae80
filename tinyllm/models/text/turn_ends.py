"""Which control tokens end a turn, whether or not a model's files name them as its end."""

from __future__ import annotations

from tinyllm.errors import TinyllmError
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.template_budget import TRIAL_BASE
from tinyllm.models.text.tokenizer import Tokenizer

KNOWN_ENDS = frozenset(
    (
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|eot|>",
        "<|eom|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<turn|>",
        "<|tool_response>",
        "<|end_of_turn|>",
        "<|END_OF_TURN_TOKEN|>",
        "[|endofturn|]",
        "<end_of_utterance>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<｜end▁of▁sentence｜>",
        "<|EOT|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<eos>",
        "</s>",
    )
)
"""Control tokens after which no model goes on with its turn."""
_REPLY = "\ue000"  # a character that no template writes of its own accord


def turn_ends(tokenizer: Tokenizer, template: ChatTemplate | None) -> frozenset[int]:
    """The special tokens that end a turn: those known by their text, and what the chat template puts after a message of
    the assistant."""
    special = tokenizer.special_tokens
    ends = {token for token in special if token in KNOWN_ENDS}
    if {"<|return|>", "<|call|>"} <= ends:  # harmony: a message ends so, and the next one of the same turn follows
        ends.discard("<|end|>")
    if template is not None:
        ends |= {end for name in template.templates if (end := _written_end(template, name, special))}
    return frozenset(special[token] for token in ends)


def _written_end(template: ChatTemplate, name: str, special: dict[str, int]) -> str | None:
    """The special token that a template writes after a reply: at the end of a conversation, else before the next
    message. None for a template that writes none, or does not take such a conversation."""
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _REPLY}]
    for messages in (conversation, [*conversation, conversation[0]]):
        try:
            text = template.render(messages, add_generation_prompt=False, template=name, budget_base=TRIAL_BASE)
        except TinyllmError:
            return None
        _, _, after = text.rpartition(_REPLY)
        found = [token for token in special if after.lstrip().startswith(token)]
        if found and after != text:
            return max(found, key=len)
    return None
