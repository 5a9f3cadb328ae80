"""`tinyllm pull`: download a model."""

from __future__ import annotations

from tinyllm.cli import options


def pull(name: options.KnownModelName = None) -> None:
    """Download a model, and print where it lies.

    A model that is on this machine already is checked and kept.
    """
    from tinyllm.cli.output import download_bar
    from tinyllm.cli.session import model_name
    from tinyllm.models.download import sources

    model = model_name(name)
    with download_bar(f"fetching {model}") as report:
        path = sources.pull(model, report)
    print(path)
