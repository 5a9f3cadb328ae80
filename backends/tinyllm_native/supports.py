"""Which calls the kernels take, beyond what their signatures and schemes say."""

from __future__ import annotations

from tinyllm.plugins import Call


def floats(call: Call) -> bool | str:
    """Inputs are of at most 32 bits."""
    for name, what in call.inputs.items():
        if what is not None and what.dtype == "float64":
            return f"{name}: no float64"
    return True


def on_cpu(call: Call) -> bool | str:
    """Arrays of other backends, on the CPU."""
    return floats(call) if call.device == "cpu" else "for the CPU only"


def packed(call: Call) -> bool | str:
    """Products on other backends' arrays: with a program's constants, on the CPU."""
    return on_cpu(call) if call.weights_packed else "packing at each call costs more than it gives"


def shared(call: Call) -> bool | str:
    """Floats of at most 32 bits, of processes that share memory."""
    group = call.attributes["group"]
    if group is not None and group.place is None:
        return "group: shares no memory"
    return floats(call)
