"""`tinyllm bisect`: the node or the kernel by which one backend's logits depart from another's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tinyllm.cli import diff_options, options
from tinyllm.cli.diff_options import TRANSFORMERS


def bisect(
    against: Annotated[
        str, typer.Option("--against", metavar="NAME", help="The backend that is right, or transformers.")
    ],
    model: diff_options.Model = None,
    backend: options.BackendName = None,
    prompt: diff_options.Prompt = None,
    tokens: diff_options.Tokens = None,
    decode: diff_options.Decode = None,
    random: diff_options.Random = False,
    nodes: diff_options.Nodes = "",
    dtype: options.Dtype = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    as_json: options.Json = False,
) -> None:
    """Find the node, or the kernel, that makes a backend's logits differ from another's, by running programs that are
    half of the one and half of the other.

    Against transformers, for a family that is being ported: the first part of each layer that differs, where every
    layer is given what transformers' has.

    Ends with code 0 if the two agree, 1 if something was found.
    """
    from tinyllm.cli.output import note, print_json
    from tinyllm.conformance.compared_model import make_steps
    from tinyllm.conformance.model_bisect import Bisection

    following = diff_options.decoded("bisect", against, decode)
    loaded = diff_options.open_model(model, backend, dtype, fast, kv_cache_dtype)
    registry = loaded.registry
    if against != TRANSFORMERS:
        registry.select(against)  # a wrong name is an error before anything runs
    ours = backend or registry.select(None).default or registry.best()
    wanted = diff_options.wanted_nodes("bisect", loaded, nodes)
    ids = diff_options.token_ids("bisect", loaded, prompt, tokens, following, random)
    if against == TRANSFORMERS:
        from tinyllm.cli.diff_transformers import show_departures

        if show_departures(loaded, loaded.bind(registry.select(backend)), ids, wanted, as_json):
            raise typer.Exit(1)
        return
    bisection = Bisection(loaded, ours, against, make_steps(ids, following))

    def told(what: str) -> None:
        note(f"program {bisection.programs + 1}: {what}")

    bisection.told = told if not as_json else (lambda what: None)
    found = bisection.run(wanted)
    if as_json:
        print_json(asdict(found) | {"ours": ours, "theirs": against, "tokens": len(ids)})
    elif not found.nodes:
        note(f"{found.programs} programs: nothing to find; the logits differ by {found.distance:.1e} of the largest")
    else:
        who = found.nodes[0] if len(found.nodes) == 1 else f"{len(found.nodes)} nodes of {found.kernel}"
        print(f"guilty: {who} ({found.kernel})" if len(found.nodes) == 1 else f"guilty: {who}")
        for name in found.nodes[1:] and found.nodes:
            print(f"  {name}")
        share = "makes" if found.alone else "is the last of several nodes that make"
        note(
            f"{found.programs} programs; it {share} half or more of a difference of {found.distance:.1e} of the largest"
        )
    if found.nodes:
        raise typer.Exit(1)
