"""Texts between which models write calls of tools, as Hermes and Qwen models do."""

BEGIN, END = "<tool_call>", "</tool_call>"
