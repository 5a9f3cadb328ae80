"""Runs checks in a process of its own and writes a JSON line for each: the child's side of `isolate`.

Started as `python -m tinyllm.conformance.worker PLAN SKIP FD`: the plan as JSON, how many of its checks were done
before, where to write.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from tinyllm.conformance.checks.arrays import OP as ARRAYS
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect, trials
from tinyllm.conformance.guard import free_arrays, guard_arrays
from tinyllm.conformance.run import Runner
from tinyllm.errors import TinyllmError, UnknownNameError
from tinyllm.registry.registry import Registry, default_registry

LIST = "list"
"""In the place of SKIP: tell the ops of the plan, and what is wrong with it, without loading a kernel."""


def _listed(registry: Registry, plan: Plan) -> dict[str, Any]:
    try:
        ops = [trial.spec.name for trial in trials(registry, plan)]
    except TinyllmError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    return {"ops": [*((ARRAYS,) if not plan.shapes and (not plan.ops or ARRAYS in plan.ops) else ()), *ops]}


def main(plan_json: str, skip: str, descriptor: str) -> None:
    """`{"checks": n}`, then for each check `{"start": id}` and its result."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(plan_json).items()}
    plan = Plan(**fields)
    with os.fdopen(int(descriptor), "w", buffering=1, encoding="utf-8") as out:
        registry = default_registry()
        if skip == LIST:
            print(json.dumps(_listed(registry, plan)), file=out)
            return
        try:
            checks = collect(registry, plan)
        except UnknownNameError:  # the case asked for is of another op
            checks = []
        print(json.dumps({"checks": len(checks)}), file=out)
        runner = Runner(registry, plan)
        guard_arrays()
        for check in checks[int(skip) :]:
            about = {
                "id": check.id,
                "backend": check.backend,
                "op": check.op,
                "kernel": check.kernel,
                "dtype": check.dtype,
                "case": check.case,
                "aspect": check.aspect,
            }
            print(json.dumps({"start": about}), file=out)
            result = runner(check).to_json()
            free_arrays()
            print(json.dumps({"result": result}), file=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
