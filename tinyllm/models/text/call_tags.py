"""Texts between which models write calls of tools, as Hermes and Qwen models do."""

TAGS = BEGIN, END = "<tool_call>", "</tool_call>"
"""Some tokenizers have them as special tokens. They are text wherever a reply may call."""
