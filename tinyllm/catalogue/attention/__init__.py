"""Attention and its cache: sdpa, gqa, mha, kv_append, paged_attention."""
