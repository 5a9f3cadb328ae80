"""A process that forks: backends whose threads do not come along say so in the child, and the others go on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.catalogue.harness import backends

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

FORKED = """
import os, signal, sys
import numpy as np
from tests.graph.tiny import CONFIG, Tensors
from tinyllm import ops
from tinyllm.errors import BackendUnavailableError
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.graph.bind import bind
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.registry import default_registry

BACKEND, PARENT, CHILD = sys.argv[1:]
registry = default_registry()
x, weight = np.ones((300, 300), np.float32), np.ones((400, 300), np.float32)
made = []

def op():
    assert (ops.linear(x, weight, backend=BACKEND) == 300).all()

def load():
    graph = decoder(CONFIG, registry.specs)
    made[:] = [bind(graph, registry, registry.select(BACKEND), Tensors(graph.tensors()))]

def step():
    ids = list(range(40))
    runner = ModelRunner(made[0], 1, len(ids))
    assert np.isfinite(runner.step(make_step([Chunk(ids, 0, [0], rows=1)], len(ids)))).all()

DO = {"nothing": lambda: None, "backend": lambda: registry.backend(BACKEND), "op": op, "load": load, "step": step}
for name in PARENT.split("+"):
    DO[name]()
child = os.fork()
if not child:
    signal.alarm(20)  # it would wait for ever
    try:
        for name in CHILD.split("+"):
            DO[name]()
        print("computed", flush=True)
    except BackendUnavailableError as error:
        print(error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child hangs"
for name in PARENT.split("+"):
    DO[name]()
print("parent goes on", flush=True)
os._exit(0)
"""


def forked(backend: str, parent: str, child: str, **environment: str) -> str:
    """What the child says. Both do what is named, and the parent does it again in the end."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, backend, parent, child]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    *lines, last = done.stdout.splitlines() or [done.stderr]
    assert last == "parent goes on", done.stderr
    (said,) = lines
    return said


@pytest.mark.parametrize(("parent", "child"), [("load+step", "step"), ("op", "load+step")])
@pytest.mark.parametrize("backend", backends())
def test_a_child_of_a_process_that_computed(backend: str, parent: str, child: str) -> None:
    """It computes, or says at once what to do; both where the model is its parent's and where it loads one anew."""
    said = forked(backend, parent, child)
    if backend.partition(":")[0] in ("torch", "mlx"):
        assert said.startswith(f"{backend.partition(':')[0]} was in use before this process was forked")
        assert "load the model after the fork" in said
    else:
        assert said == "computed"


@pytest.mark.parametrize("backend", backends())
def test_a_child_that_loads_after_the_fork_computes(backend: str) -> None:
    assert forked(backend, "nothing", "op+load+step") == "computed"


@pytest.mark.skipif("torch" not in backends(), reason="no torch here")
def test_torch_goes_on_where_it_had_no_threads() -> None:
    """With one thread there is nothing that a fork could lose, nor where nothing was computed yet."""
    assert forked("torch", "load+step", "step", OMP_NUM_THREADS="1") == "computed"
    assert forked("torch", "backend", "op+load+step") == "computed"
