"""What holds whatever the numbers are, told without a reference: outputs of a kernel are compared with one another."""

from __future__ import annotations

from tinyllm.conformance.properties import attention, experts, pages, products, recurrent, rope, rows
from tinyllm.conformance.properties.neighbours import neighbours_of
from tinyllm.conformance.properties.search import Property
from tinyllm.spec.op_spec import OpSpec

PROPERTIES: tuple[Property, ...] = (
    *rows.PROPERTIES,
    *rope.PROPERTIES,
    *attention.PROPERTIES,
    *products.PROPERTIES,
    *pages.PROPERTIES,
    *recurrent.PROPERTIES,
    *experts.PROPERTIES,
)


def properties_of(spec: OpSpec) -> tuple[Property, ...]:
    """The properties of an op; one that others brought has at least those that follow from its shape patterns."""
    return (*(p for p in PROPERTIES if p.op == spec.name), *neighbours_of(spec))
