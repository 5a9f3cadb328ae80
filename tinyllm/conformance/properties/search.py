"""Looks for inputs on which something does not hold: hypothesis draws and shrinks them, and the same seed draws the
same.

All is drawn as coin flips. Hypothesis mixes constants from the source of whatever modules are loaded into the integers
it draws, so that those depend on the process, and keeps what it reads there in a folder; of coin flips it does neither.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NoReturn

import numpy as np

from tinyllm.conformance.bounds import HALVES, bounds_of, half_step
from tinyllm.conformance.checks.check import Admitted, DeclaredError
from tinyllm.conformance.example import DTYPES, Example
from tinyllm.conformance.judge import Verdict, judge
from tinyllm.conformance.properties.described import described
from tinyllm.conformance.subject import Subject
from tinyllm.errors import InvalidInputError, TinyllmError, UnsupportedError
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.scheme import QuantWeight

SIZES = (2, 1, 3, 0, 4, 5, 8, 17, 33)
"""Of axes that may have any size."""
MOST_SECONDS = 10.0
"""For which a failing input is made smaller."""
MOST_DECLINED = 5
"""Inputs that may be declined for each that is wanted."""


@dataclass(frozen=True)
class Run:
    """What a subject gave for an example."""

    subject: Subject
    example: Example
    outputs: tuple[Any, ...]

    @property
    def first(self) -> Any:
        """The first output, floats in float64."""
        return self.outputs[0].astype(np.float64)

    @property
    def error(self) -> Any:
        """What the first output may be off by, per element: its rounding to 16 bits included, where it is of 16."""
        bound, (output, *_) = bounds_of(self.example, self.subject.exact)[0], self.outputs
        error = bound.most * bound.unit
        return error + half_step(output, np.copysign(np.inf, output)) if str(output.dtype) in HALVES else error


@dataclass(frozen=True)
class Property:
    """Something that holds between outputs of one kernel, or of kernels of one backend, whatever the numbers are.

    test: draws inputs, compares outputs with one another, and gives "" or what is wrong.
    dtypes: those it holds in.
    """

    name: str
    op: str
    test: Callable[[Subject, Draws], str]
    dtypes: tuple[str, ...] = DTYPES


@dataclass
class Draws:
    """Where a property takes its inputs from, and the subject's outputs on them."""

    data: Any
    dtype: str
    admitted: Admitted = field(default_factory=Admitted)
    tried: list[Example] = field(default_factory=list)
    sizes: tuple[int, ...] = SIZES
    declined: str = ""

    def pick(self, *options: Any) -> Any:
        """One of these; shrinking ends at the first."""
        flips, bits = self.data.draw(_flips(len(options))), 0
        for flip in flips:
            bits = 2 * bits + flip
        return options[bits * len(options) >> len(flips)]

    def flag(self) -> bool:
        """False or True."""
        return bool(self.pick(False, True))

    @cached_property
    def rng(self) -> np.random.Generator:
        """Where numbers come from: they are not shrunk."""
        return np.random.default_rng(self.pick(*range(256)))

    def normal(self, *shape: int, scale: float = 1.0) -> Any:
        """Standard normal numbers times `scale`, in the dtype."""
        return self.cast(self.rng.standard_normal(shape) * scale)

    def eighths(self, *shape: int) -> Any:
        """Multiples of 1/8 from -4 to 4: sums of a few of them are exact in every dtype."""
        return self.cast(self.rng.integers(-32, 33, shape) / 8)

    def cast(self, array: Any) -> Any:
        """The same numbers in the dtype."""
        return np.asarray(array).astype(numpy_dtype(self.dtype))

    def reject(self, reason: str) -> NoReturn:
        """These inputs show nothing: others are drawn."""
        from hypothesis import reject

        self.declined = reason
        reject()

    def must_be_valid(self, example: Example) -> None:
        """Rejects an example that its op refuses."""
        try:
            check_values(example)
        except InvalidInputError as error:
            self.reject(str(error))

    def must_run(self, subject: Subject, example: Example) -> None:
        """Rejects an example that its op refuses or the subject declines."""
        self.must_be_valid(example)
        reason = subject.declines(example.call)
        if reason:
            self.reject(f"{subject.id}: {reason}")
        self.tried.append(example)

    def run(self, subject: Subject, inputs: Mapping[str, Any], **attributes: Any) -> Run:
        """The subject's outputs; inputs that the op refuses or the subject declines are rejected."""
        example = Example(subject.spec, "drawn", self.dtype, dict(inputs), attributes)
        self.must_run(subject, example)
        return Run(subject, example, subject(example))

    def other(self, subject: Subject, op: str, inputs: Mapping[str, Any], **attributes: Any) -> Run:
        """What the kernel that the subject's backend chooses for another op gives."""
        spec = subject.registry.spec(op)
        call = Example(spec, "drawn", self.dtype, dict(inputs), attributes).call
        try:
            choice = subject.registry.choose(call, subject.backend)
        except UnsupportedError as error:
            self.reject(str(error))
        return self.run(Subject(subject.registry, subject.backend, spec, choice.kernel), inputs, **attributes)

    def apart(self, subject: Subject, *calls: tuple[Mapping[str, Any], Mapping[str, Any]]) -> str:
        """What sets the subject's outputs on two calls apart, each of them inputs and attributes."""
        first, second = (self.run(subject, inputs, **attributes) for inputs, attributes in calls)
        return self.differ(first, *second.outputs)

    def differ(self, run: Run, *against: Any) -> str:
        """What sets the outputs of a run apart from others, each of the two being allowed the tolerance."""
        message = judge(
            run.example, run.outputs, exact=run.subject.exact, against=against, factor=self.admitted.factor
        ).message
        return message.replace("the reference", "the other").replace("reference", "the other")

    def beyond(self, got: Any, wanted: Any, bound: Any, what: str = "") -> str:
        """The element that is off by more than the bound, which is per element and stated in the op's rounding errors;
        what is compared stands before it."""
        got, wanted = np.atleast_1d(np.asarray(got, np.float64)), np.atleast_1d(np.asarray(wanted, np.float64))
        error = np.abs(got - wanted)
        bound = np.broadcast_to(np.asarray(bound) * self.admitted.factor + 1e-30, error.shape)
        bad = ~(error <= bound)
        if not np.any(bad):
            return ""
        index = tuple(int(i[0]) for i in np.nonzero(bad))
        return f"{what}{got[index]:.9g} instead of {wanted[index]:.9g} at {index} (off by {bound[index]:.3g} at most)"


@lru_cache(maxsize=64)
def _flips(options: int) -> Any:
    """Enough coins to choose among so many, about evenly where they are no power of two."""
    from hypothesis import strategies

    even = options & (options - 1) == 0
    return strategies.tuples(*[strategies.booleans()] * ((options - 1).bit_length() + (0 if even else 1)))


def check_values(example: Example) -> None:
    """Holds an example to its spec, data included. Raises `InvalidInputError`."""
    spec, call = example.spec, example.call
    if spec.check_values is not None:
        spec.check_values(
            call, {i.name: example.inputs[i.name] for i in spec.inputs if i.kind == "int" and i.name in example.inputs}
        )


@dataclass(frozen=True)
class _Failure:
    """An input on which something does not hold."""

    size: tuple[int, int]
    message: str
    error: Exception | None


class _WrongError(Exception):
    """Tells hypothesis that something does not hold."""


class _EnoughError(BaseException):
    """Ends the shrinking; hypothesis lets pass what is no `Exception`."""


def search(
    test: Callable[[Draws], str], dtype: str, admitted: Admitted, name: str, seed: int, examples: int
) -> Verdict:
    """Tries `test` on so many inputs. It gives "" or what is wrong; the verdict names the smallest call found on which
    it is.

    Raises:
        DeclaredError: every input was declined.
        TinyllmError: hypothesis is not installed.
    """
    hypothesis = require_hypothesis()
    failures: list[_Failure] = []
    held, reasons, deadline, enough = 0, [""], float("inf"), False

    def attempt(data: Any) -> None:
        nonlocal held, deadline, enough
        enough = time.monotonic() > deadline or (len(reasons) > MOST_DECLINED * examples and not failures)
        if enough:
            raise _EnoughError
        draws = Draws(data, dtype, admitted)
        error: Exception | None = None
        try:
            message = test(draws)
        except hypothesis.errors.HypothesisException:
            reasons.append(draws.declined)
            raise
        except Exception as caught:  # noqa: BLE001  a kernel may raise anything
            message, error = f"{type(caught).__name__}: {caught}", caught
        if not message:
            held += 1
            return
        failures.append(_failure(draws.tried, message, error))
        deadline = min(deadline, time.monotonic() + MOST_SECONDS)
        raise _WrongError

    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=hypothesis.Verbosity.quiet,
        suppress_health_check=list(hypothesis.HealthCheck),
        backend="hypothesis",
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    seeded = hypothesis.seed(zlib.crc32(name.encode()) + (seed << 32))
    try:
        seeded(settings(hypothesis.given(hypothesis.strategies.data())(attempt)))()
    except (_EnoughError, _WrongError, hypothesis.errors.HypothesisException):
        if held and not failures and not enough:
            raise
    if failures:
        smallest = min(failures, key=lambda f: f.size)
        if isinstance(smallest.error, (UnsupportedError, NotImplementedError)):
            raise UnsupportedError(smallest.message) from smallest.error
        return Verdict(smallest.message)
    if not held:
        raise DeclaredError(
            f"all inputs that were tried are declined: "
            f"{next((r for r in reversed(reasons) if r), 'none could be drawn')}"
        )
    return Verdict()


def _failure(tried: Sequence[Example], message: str, error: Exception | None) -> _Failure:
    names = list(dict.fromkeys(map(described, tried)))
    told = " and ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    values = (v for example in tried for v in example.inputs.values())
    size = sum(v.nbytes if isinstance(v, QuantWeight) else v.size for v in values)
    return _Failure((size, len(told)), " ".join((f"{message}; with {told}" if told else message).split()), error)


def require_hypothesis() -> Any:
    """The module hypothesis, or a `TinyllmError` that says how to get it."""
    try:
        import hypothesis.strategies
    except ImportError as error:
        raise TinyllmError("properties need hypothesis: pip install 'tinyllm[conformance]'") from error
    return hypothesis
