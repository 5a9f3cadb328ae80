"""Plugins: what they bring counts whole or not at all, and a broken one harms no other."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.registry.fakes import backend_plugin, box_softmax, colour, module, plugins, registry
from tinyllm import Int8
from tinyllm.cli.app import command
from tinyllm.errors import BackendUnavailableError, CheckpointError, PluginError
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families.families import FAMILIES, decoder_config
from tinyllm.models.families.family import Family, GgufForm
from tinyllm.models.families.llama import llama
from tinyllm.plugins import hookspecs
from tinyllm.plugins.command import RESERVED, Command
from tinyllm.plugins.hookspecs import hookimpl
from tinyllm.plugins.kernel import Kernel
from tinyllm.spec.op_spec import SPEC_VERSION, OpSpec

HOOKS = [name for name in dir(hookspecs) if name.startswith("tinyllm_")]
DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"


def _error(broken: ModuleType, *others: ModuleType) -> Exception:
    """The error that keeps a plugin out; numpy and the others are in."""
    found = plugins(*others, broken, colour("red"))
    assert {"numpy", "red"} <= found.backends.keys()
    assert list(found.broken) == [broken.__name__]
    return found.broken[broken.__name__]


def test_import_error_is_kept_with_its_cause() -> None:
    """The others work; selecting the broken one raises its own error as the cause."""
    asked = registry(colour("red"), found=[EntryPoint("torn", "no_such_module_anywhere", "tinyllm")])
    assert asked.backend("red").name == "red"
    with pytest.raises(BackendUnavailableError, match="'torn': its plugin is broken: ModuleNotFoundError") as caught:
        asked.backend("torn")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_hook_that_raises() -> None:
    def fail() -> Any:
        raise OSError("no such library")

    assert isinstance(_error(module("torn", tinyllm_ops=hookimpl(fail))), OSError)


class _Panic(BaseException):
    """What libraries in Rust raise where they panic."""


@pytest.mark.parametrize("problem", [SystemExit("no licence"), SystemExit(0), _Panic("unwrap"), GeneratorExit("x")])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_ends_the_process(hook: str, problem: BaseException) -> None:
    """`sys.exit` and whatever else is no `Exception`."""

    def leave() -> Any:
        raise problem

    error = _error(module("torn", **{hook: hookimpl(leave)}))
    assert str(error) == f"a hook failed: {type(problem).__name__}: {problem}" and error.__cause__ is problem


def test_ctrl_c_in_a_hook_is_the_users() -> None:
    def interrupt() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plugins(module("slow", tinyllm_ops=hookimpl(interrupt)))


def test_a_broken_plugin_brings_nothing() -> None:
    """Its backend is fine, its ops are not: neither is in."""
    broken = module("torn", backends=[backend_plugin("blue")], tinyllm_ops=hookimpl(lambda: 1 / 0))
    assert "blue" not in plugins(broken).backends


def test_two_plugins_of_one_name() -> None:
    first, second = colour("blue"), module("other_blue", backends=[backend_plugin("blue")])
    assert "backend 'blue' is already provided" in str(_error(second, first))


def test_misspelt_hook() -> None:
    error = _error(module("torn", tinyllm_kernel=hookimpl(lambda: None)))
    assert isinstance(error, PluginError) and "unknown hook 'tinyllm_kernel'. Did you mean 'tinyllm_kernels'?" in str(
        error
    )


def test_misspelt_hook_parameter() -> None:
    error = _error(module("torn", tinyllm_ops=hookimpl(lambda catalogue: [])))
    assert "catalogue" in str(error)


@pytest.mark.parametrize("version", [1, SPEC_VERSION + 1])
def test_spec_version(version: int) -> None:
    """Both numbers are named, and the page that says what changed."""
    kernel = Kernel("numpy", "softmax", "fast", lambda: box_softmax, spec_version=version)
    torn = {
        "backend 'blue'": module("torn", backends=[backend_plugin("blue", version=version)]),
        "kernel numpy/softmax:fast": module("torn", kernels=[kernel]),
        "the plugin": module("torn", tinyllm_ops=hookimpl(lambda: [_op("twice")]), tinyllm_spec_version=version),
    }
    page = DOCS.relative_to(DOCS.parents[1]).as_posix()
    for what, plugin in torn.items():
        numbers = f"was written for spec version {version}, this is version {SPEC_VERSION}"
        assert str(_error(plugin)) == f"{what} {numbers}: {page} says what changed"
    assert not plugins(module("fine", tinyllm_spec_version=SPEC_VERSION)).broken


def test_the_page_says_what_changed() -> None:
    assert f"What changed in version {SPEC_VERSION}\n" in DOCS.read_text(encoding="utf-8")


def test_op_of_a_taken_name() -> None:
    softmax = registry().spec("softmax")
    assert "'softmax' is already in the catalogue" in str(
        _error(module("torn", tinyllm_ops=hookimpl(lambda: [softmax])))
    )


def _op(name: str) -> OpSpec:
    return replace(registry().spec("softmax"), name=name)


def _family(*model_types: str) -> Family:
    return Family("mine", model_types, llama)


class _Mine(Int8):
    """A scheme of a third party."""

    name = "mine"


class _Nameless(Int8):
    """One that says no name."""

    name = None  # type: ignore[assignment]


def _schemes(name: str, *schemes: Any) -> ModuleType:
    return module(name, tinyllm_schemes=hookimpl(lambda: list(schemes)))


def test_a_name_brought_twice_by_one_plugin() -> None:
    blue = backend_plugin("blue")
    assert str(_error(module("torn", backends=[blue, blue]))) == "backend 'blue' is brought twice"
    assert (
        str(_error(module("torn", tinyllm_ops=hookimpl(lambda: [_op("twice")] * 2)))) == "op 'twice' is brought twice"
    )
    torn = module("torn", tinyllm_families=hookimpl(lambda: [_family("gpt"), _family("neo", "gpt")]))
    assert str(_error(torn)) == "model_type 'gpt' is brought twice"
    assert str(_error(_schemes("torn", _Mine(), _Mine(32)))) == "scheme 'mine' is brought twice"


def test_scheme_of_a_taken_name() -> None:
    """One of the core's, or another plugin's: the second plugin is kept out, with all that it brings."""
    assert str(_error(_schemes("torn", Int8()))) == "scheme 'int8' is already there"
    first, second = _schemes("first", _Mine(32)), _schemes("second", _Mine(64))
    second.tinyllm_backends = hookimpl(lambda: [backend_plugin("blue")])  # type: ignore[attr-defined]
    found = plugins(first, second)
    assert str(found.broken["second"]) == "scheme 'mine' is already there"
    assert found.schemes["mine"] == _Mine(32) and "blue" not in found.backends
    assert {"affine", "int8", "q4_0"} <= found.schemes.keys()


def _commands(name: str, *commands: Any) -> ModuleType:
    return module(name, tinyllm_commands=hookimpl(lambda: list(commands)))


def test_command_of_a_taken_name() -> None:
    """One of tinyllm's own, another plugin's, or the plugin's own."""
    assert str(_error(_commands("torn", Command("bench", "a:b")))) == "command 'bench' is already there"
    first, second = (_commands(name, Command("mine", f"{name}:app")) for name in ("first", "second"))
    assert str(_error(second, first)) == "command 'mine' is already there"
    assert plugins(first, second).commands == {"mine": Command("mine", "first:app")}
    assert "brought twice" in str(_error(_commands("torn", *[Command("mine", "a:b")] * 2)))


def test_reserved_names_are_those_of_the_command_line() -> None:
    assert sorted(RESERVED) == sorted(command().commands)


def test_family_of_a_taken_model_type() -> None:
    """Taken by tinyllm itself or by another plugin: neither wins in silence."""
    torn = module("torn", tinyllm_families=hookimpl(lambda: [_family("gpt", "llama")]))
    assert str(_error(torn)) == "model_type 'llama' is already read by another family"
    first, second = (module(name, tinyllm_families=hookimpl(lambda: [_family("gpt")])) for name in ("first", "second"))
    assert str(_error(second, first)) == "model_type 'gpt' is already read by another family"
    assert [f.model_types for f in plugins(first, second).families] == [("gpt",)]


@pytest.mark.parametrize(
    ("hook", "gives", "words"),
    [
        ("kernels", ["oops"], "tinyllm_kernels: expected Kernel objects, got 'oops'"),
        ("families", ["x"], "tinyllm_families: expected Family objects, got 'x'"),
        ("backends", [None], "tinyllm_backends: expected BackendPlugin objects, got None"),
        ("ops", ["softmax"], "tinyllm_ops: expected OpSpec objects, got 'softmax'"),
        ("kernels", 3, "'int' object is not iterable"),
        (
            "kernels",
            [Kernel("numpy", "softmax", "fast", "a:b", priority=None)],
            "Kernel 'fast': priority: expected int, got None",
        ),  # type: ignore[arg-type]
        (
            "kernels",
            [Kernel("numpy", "linear", "fast", "a:b", prepares="weight")],
            "prepares: expected tuple, got 'weight'",
        ),  # type: ignore[arg-type]
        (
            "kernels",
            [Kernel("numpy", "linear", "fast", "a:b", schemes="affine")],
            "schemes: expected tuple, got 'affine'",
        ),  # type: ignore[arg-type]
        ("kernels", [Kernel("numpy", "gqa", "fast", "a:b", host="mask")], "host: expected tuple, got 'mask'"),  # type: ignore[arg-type]
        ("kernels", [Kernel("numpy", "gqa", "fast", "a:b", layout=2)], "layout: expected str, got 2"),  # type: ignore[arg-type]
        ("commands", [backend_plugin("blue")], "tinyllm_commands: expected Command objects, got BackendPlugin"),
        ("commands", [Command("mine", backend_plugin)], "Command 'mine': load: expected str, got <function"),  # type: ignore[arg-type]
        ("schemes", ["affine"], "tinyllm_schemes: expected Scheme objects, got 'affine'"),
        ("schemes", [_Mine], "tinyllm_schemes: expected Scheme objects, got <class"),
        ("schemes", [_Nameless()], "tinyllm_schemes: Scheme None: name: expected str, got None"),
        ("families", [Family("mine", "gpt", llama)], "Family 'mine': model_types: expected tuple, got 'gpt'"),  # type: ignore[arg-type]
        (
            "backends",
            [replace(backend_plugin("blue"), array_types="numpy.ndarray")],
            "array_types: expected tuple, got 'numpy.ndarray'",
        ),
    ],
)
def test_a_hook_that_gives_something_else(hook: str, gives: Any, words: str) -> None:
    assert words in str(_error(module("torn", **{f"tinyllm_{hook}": hookimpl(lambda: gives)})))


def test_a_gguf_architecture_has_one_family() -> None:
    """As a `model_type` has; and a form of another kind is named."""
    form = GgufForm(("llama",), lambda fields: {})
    torn = module("torn", tinyllm_families=hookimpl(lambda: [Family("mine", ("gpt",), llama, gguf=form)]))
    assert str(_error(torn)) == "GGUF architecture 'llama' is already read by another family"
    wrong: Any = ("gpt",)
    torn = module("torn", tinyllm_families=hookimpl(lambda: [Family("mine", ("gpt",), llama, gguf=wrong)]))
    assert str(_error(torn)) == "tinyllm_families: Family 'mine': gguf: expected GgufForm, got ('gpt',)"


def test_a_familys_error_has_its_cause() -> None:
    """What a plugin's function raises by mistake is told as the plugin's; what it refuses stays as it says."""

    def refuse(config: Any) -> Any:
        raise CheckpointError("config: gate: expected none")

    def decode(from_config: Any) -> DecoderConfig:
        return decoder_config({"model_type": "gpt"}, (*FAMILIES, Family("mine", ("gpt",), from_config)))

    with pytest.raises(PluginError, match="family 'mine': from_config failed: KeyError: 'n_layer'") as caught:
        decode(lambda config: config["n_layer"])
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(PluginError, match="family 'mine': from_config: expected a DecoderConfig, got None"):
        decode(lambda config: None)
    with pytest.raises(CheckpointError, match="config: gate: expected none"):
        decode(refuse)


def test_kernel_for_an_unknown_backend() -> None:
    found = plugins(module("torn", kernels=[Kernel("nunpy", "softmax", "fast", lambda: box_softmax)]))
    assert (
        str(found.broken["nunpy/softmax:fast"])
        == "kernel nunpy/softmax:fast: unknown backend 'nunpy'. Did you mean 'numpy'?"
    )
    assert all(k.backend != "nunpy" for k in found.kernels)


def test_kernel_for_the_backend_of_a_broken_plugin() -> None:
    """One error for one cause."""
    extra = module("extra", kernels=[Kernel("torn", "softmax", "fast", lambda: box_softmax)])
    found = plugins(extra, found=[EntryPoint("torn", "no_such_module_anywhere", "tinyllm")])
    assert list(found.broken) == ["torn"]


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (
            Kernel("numpy", "linear", "torn", "a:b", prepare="a:b", prepares=("weigth",)),
            "prepares: linear has no input 'weigth'. Did you mean 'weight'?",
        ),
        (
            Kernel("numpy", "embedding", "torn", "a:b", host=("ids", "idx")),
            "host: embedding has no input 'idx'. Did you mean 'ids'?",
        ),
        (Kernel("numpy", "sdpa", "torn", "a:b", host=("causal",)), "host: sdpa has no input 'causal'."),
        (
            Kernel("numpy", "linear", "torn", "a:b", schemes=("dense", "afine")),
            "schemes: unknown scheme 'afine'. Did you mean 'affine'?",
        ),
        (
            Kernel("numpy", "linear", "torn", "a:b", arrays="numpy"),
            "arrays: expected 'host' for backend '*', otherwise 'native' or 'host', got 'numpy'",
        ),
        (
            Kernel("*", "linear", "torn", "a:b"),
            "arrays: expected 'host' for backend '*', otherwise 'native' or 'host', got 'native'",
        ),
    ],
)
def test_kernel_that_names_what_is_not_there(kernel: Kernel, words: str) -> None:
    """It is kept out by itself; other kernels of its plugin are in."""
    fine = Kernel("numpy", "linear", "fine", "a:b")
    found = plugins(module("extra", kernels=[kernel, fine]))
    assert list(found.broken) == [kernel.id]
    assert str(found.broken[kernel.id]).startswith(f"kernel {kernel.id}: {words}")
    assert fine in found.kernels and kernel not in found.kernels


def test_kernel_that_names_what_is_there() -> None:
    """Of another plugin too, whichever comes first; inputs to pack matter only to a kernel that packs."""
    kernels = [
        Kernel("numpy", "linear", "a", "a:b", schemes=("mine", "dense"), prepare="a:b"),
        Kernel("*", "linear", "b", "a:b", schemes=("*",), arrays="host", prepares=("w",)),
        Kernel("numpy", "gqa", "c", "a:b", host=("kv_lengths",), arrays="host"),
    ]
    found = plugins(module("extra", kernels=kernels), _schemes("other", _Mine()))
    assert not found.broken and all(kernel in found.kernels for kernel in kernels)


def test_kernel_of_an_unknown_op() -> None:
    found = plugins(module("torn", kernels=[Kernel("numpy", "sofmax", "fast", lambda: box_softmax)]))
    assert "Did you mean 'softmax'?" in str(found.broken["numpy/sofmax:fast"])
    assert all(k.op != "sofmax" for k in found.kernels)


def test_kernel_registered_twice() -> None:
    one = Kernel("numpy", "softmax", "fast", lambda: box_softmax)
    found = plugins(module("a", kernels=[one]), module("b", kernels=[one]))
    assert "registered twice" in str(found.broken["numpy/softmax:fast"])
    assert sum(k.id == one.id for k in found.kernels) == 1


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented(name: str) -> None:
    """In its docstring, and on the page for authors of plugins."""
    assert getattr(hookspecs, name).__doc__
    assert name in DOCS.read_text(encoding="utf-8")


def test_there_are_hooks() -> None:
    assert {"backends", "kernels", "ops", "families", "schemes"} <= {name.removeprefix("tinyllm_") for name in HOOKS}
