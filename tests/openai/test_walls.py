"""The protocol stands on the engine alone, and the batch on the protocol: neither needs the server, nor HTTP."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["tinyllm.openai", "tinyllm.batch"])
def test_no_module_needs_the_server(package: str) -> None:
    """Where libraries for HTTP are missing, and the server is, all modules can be imported."""
    code = f"""
import pkgutil, sys
from importlib import import_module
for name in ("fastapi", "starlette", "uvicorn", "prometheus_client", "tinyllm.server"):
    sys.modules[name] = None
package = import_module({package!r})
names = [module.name for module in pkgutil.iter_modules(package.__path__)]
for name in names:
    import_module(f"{package}.{{name}}")
print(len(names))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and int(run.stdout) >= 4, run.stderr
