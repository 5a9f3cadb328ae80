"""`tinyllm pull`: bring a model to this machine."""

from __future__ import annotations

from tinyllm.cli import options


def pull(name: options.KnownModelName = None) -> None:
    """Bring a model to this machine.

    What is there already is checked and kept. Prints where it lies.
    """
    from tinyllm.cli.output import download_bar
    from tinyllm.cli.session import model_name
    from tinyllm.models.download import sources

    wanted = model_name(name)
    with download_bar(f"fetching {wanted}") as report:
        path = sources.pull(wanted, report)
    print(path)
