"""A process that holds one contender and times it whenever it is told to: a JSON line in, a JSON line out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tinyllm.bench.contenders import make


def main() -> None:
    """`worker CONTENDER MODEL FOLDER`: reads `{"prompt": [...], "new_tokens": n}` lines and answers with
    `[prefill_s, decode_s]`."""
    contender, model, folder = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print must not mix into the answers
    loaded = make(contender, Path(model), Path(folder) if folder else None)
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        loaded.measure(request["prompt"], 1)  # others ran meanwhile: caches and threads warm up again, uncounted
        print(json.dumps(loaded.measure(request["prompt"], request["new_tokens"])), file=answers)


if __name__ == "__main__":
    main()
