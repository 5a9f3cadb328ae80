"""Runs checks in a process of its own and writes a JSON line for each: the child's side of `isolate`.

Started as `python -m tinyllm.conformance.worker PLAN SKIP FD`: the plan as JSON, how many of its checks were done before, where to write.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.run import Runner
from tinyllm.registry import default_registry


def main(plan_json: str, skip: str, descriptor: str) -> None:
    """`{"checks": n}`, then for each check `{"start": id}` and its result."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(plan_json).items()}
    plan = Plan(**fields)
    registry = default_registry()
    with os.fdopen(int(descriptor), "w", buffering=1, encoding="utf-8") as out:
        checks = collect(registry, plan)
        print(json.dumps({"checks": len(checks)}), file=out)
        runner = Runner(registry, plan)
        for check in checks[int(skip) :]:
            about = {"id": check.id, "backend": check.backend, "op": check.op, "kernel": check.kernel, "dtype": check.dtype,
                     "case": check.case, "aspect": check.aspect}  # fmt: skip
            print(json.dumps({"start": about}), file=out)
            print(json.dumps({"result": runner(check).to_json()}), file=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
