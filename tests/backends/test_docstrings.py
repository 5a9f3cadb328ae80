"""Every kernel says what it returns, so that a reader of a backend need not look up the op."""

from __future__ import annotations

import inspect

import pytest

from tests.catalogue.harness import backends, registry

FEWEST_WORDS = 5


@pytest.mark.parametrize("name", backends())
def test_every_kernel_has_a_docstring(name: str) -> None:
    kernels = [k for k in registry().plugins.kernels if k.backend in (name, "*")]
    docstrings = {k.id: inspect.getdoc(k.function(registry().spec(k.op))) or "" for k in kernels}
    assert docstrings
    assert {kernel: text for kernel, text in docstrings.items() if len(text.split()) < FEWEST_WORDS} == {}
