"""What importing costs: no array library but numpy, and a machine that has only numpy is a machine that works."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "mlx", "transformers", "mlx_lm", "jax")

BLOCK = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from importlib import metadata
version = metadata.version
def without(name):
    if name.partition("-")[0] in ("torch", "mlx"):
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without
import importlib.util
spec = importlib.util.find_spec
def known(name, package=None):
    return None if name.partition(".")[0] in {HEAVY!r} else spec(name, package)
importlib.util.find_spec = known
"""


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_no_array_library() -> None:
    """Not the package, not its ops, not even loading all plugins and probing all backends."""
    code = """
import sys
import tinyllm
assert "numpy" not in sys.modules
from tinyllm import ops, use_backend
from tinyllm.registry.registry import default_registry
registry = default_registry()
registry.best()
[registry.kernels(b, op) for b in registry.plugins.backends for op in registry.specs]
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    loaded = set(_run(code).split())
    assert "tinyllm_torch" in loaded and "tinyllm_mlx" in loaded
    assert not loaded & set(HEAVY)


def test_a_machine_with_numpy_alone() -> None:
    """Ops run natively or on numpy, the others say what to install, nothing is broken."""
    code = (
        BLOCK
        + """
import numpy as np
from tinyllm import ops
from tinyllm.errors import BackendUnavailableError
from tinyllm.registry.registry import default_registry
registry = default_registry()
assert registry.plugins.broken == {}, registry.plugins.broken
assert registry.best() in ("native", "numpy")  # native where it is compiled
assert abs(ops.softmax(np.ones(4, np.float32)).sum() - 1) < 1e-6
for name in ("torch", "mlx"):
    try:
        ops.softmax(np.ones(4, np.float32), backend=name)
    except BackendUnavailableError as error:
        assert "pip install" in str(error), error
        print(name)
"""
    )
    assert _run(code).split() == ["torch", "mlx"]
