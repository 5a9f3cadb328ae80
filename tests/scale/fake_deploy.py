"""`tinyllm deploy` with a fake model: `python -m tests.scale.fake_deploy OPTIONS`."""

from __future__ import annotations

import sys

from tests.server.fake_serve import load
from tinyllm.cli import session
from tinyllm.cli.main import main

if __name__ == "__main__":
    session.load_model = load
    sys.exit(main(["deploy", *sys.argv[1:]]))
