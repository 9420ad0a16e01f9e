"""The findings of a proof: plain records, from which every report is made."""

import math

from msgspec import Struct

from ..prepare import SourceFile
from ..scope import Dropped

SAME_FUNCTION = 1e-11
"""The largest relative difference in float64 of two sides that compute the same."""

ACCURACY_RATIO = 4
"""How many times the error that TensorFlow has, or float64 predicts, PyTorch's may be."""

ACCURACY_ULPS = 4
"""The error in float32 ULPs, at a tensor's scale, that each layer may add in any case."""

ROUNDING = 2.0**-24
"""The largest relative error of rounding a number to float32."""

FLOAT64_TO_FLOAT32 = 2.0**29
"""How many times larger that is than in float64."""

SAME_GRADIENT = 1e-9
"""The largest relative difference of a parameter's gradient, in float64."""

ZERO = 1e-12
"""A gradient that is zero by mathematics: at most this, relative to the model's largest."""


class Check(Struct, frozen=True):
    """One thing that was compared, and what was found."""

    level: str
    name: str
    passed: bool
    detail: str


class Fact(Struct, frozen=True):
    """One thing about the model, as the checkpoint has it and as the folder has it."""

    name: str  # bits, heads, activation, casing, tokenizer, config
    expected: str  # "" if nothing tells it
    found: str  # in the folder, or what is wrong there
    same: bool | None  # None if nothing but the folder tells it


class Match(Struct, frozen=True):
    """A tensor of the folder and the variable that it must be."""

    tensor: str
    variable: str  # its name in the checkpoint
    name: str  # its name in the original code
    group: str
    op: str  # what the mapping does to the variable
    shape: tuple[int, ...]  # as PyTorch holds it
    merged: tuple[int, ...]  # as TensorFlow holds it, with dimensions that the op takes as one
    dtype: str  # of the tensor
    cast: bool  # whether the variable has another dtype, so that the tensor must be its cast
    same: bool  # bit for bit
    nonfinite: int  # elements of the variable that are NaN or infinite


class Output(Struct, frozen=True):
    """One tensor of the forward pass, computed by both sides in both precisions.

    Errors are the largest over all elements of all samples. `relative` is a difference divided by
    `scale`, and an ULP the distance from `scale` to the next float32.
    """

    tensor: str
    scale: float  # the largest magnitude, by TensorFlow in float64
    float64_difference: float  # between the two sides
    tensorflow_error: float  # float32 against TensorFlow's float64
    pytorch_error: float  # the same reference
    float32_bound: float  # what pytorch_error may be
    nonfinite: int  # elements that are NaN or infinite on both sides, at the same places
    same_function: bool  # what float64 says
    as_accurate: bool  # what float32 says

    @property
    def relative(self) -> float:
        """The difference in float64, relative to the tensor's scale."""
        return relative(self.float64_difference, self.scale)

    @property
    def ratio(self) -> float:
        """PyTorch's error in float32 in units of TensorFlow's."""
        return relative(self.pytorch_error, self.tensorflow_error)

    @property
    def share(self) -> float:
        """PyTorch's error in float32 in units of its bound."""
        return relative(self.pytorch_error, self.float32_bound)

    @property
    def ulp(self) -> float:
        """One float32 ULP at the tensor's scale."""
        return ulp(self.scale)


class Gradient(Struct, frozen=True):
    """The loss's gradient for one parameter, in float64."""

    tensor: str
    variable: str
    group: str
    scale: float  # what the difference is relative to
    difference: float  # the largest, between the two sides
    zero_by_mathematics: bool  # so that both sides hold rounding only, and `scale` is another's
    passed: bool

    @property
    def relative(self) -> float:
        """The difference relative to `scale`."""
        return relative(self.difference, self.scale)


class Activation(Struct, frozen=True):
    """Which function the folder's activation is, and how much the other one would change."""

    matches: str  # in words
    other: str  # in words
    cost: float  # the largest difference of any output, in float64
    where: str  # the output that has it


class Cause(Struct, frozen=True):
    """Why something differs, recognized by trying it."""

    kind: str  # one of a few fixed words
    tensors: tuple[str, ...]  # that show it, in the order of the forward pass
    text: str


class Text(Struct, frozen=True):
    """The text whose lines were the sequences."""

    name: str  # of the file
    sha256: str
    lines: int  # that were used


class Recording(Struct, frozen=True):
    """Where a golden record comes from that took the place of the checkpoint."""

    file: str
    sha256: str  # of the file
    made: str  # when, in UTC: 2026-01-31T12:00:00Z
    tool: str  # bertconvert and its version
    tensorflow: str  # the version that computed it; "" if none did


class Faulty(Struct, frozen=True):
    """A part of the model that differs even if it is fed what the original gives before it."""

    tensor: str  # the output of the part
    relative: float  # the difference in float64, relative to the tensor's scale


class Verdict(Struct, frozen=True):
    """The outcome of a proof."""

    checkpoint: str
    out: str
    level: str  # the highest that was run
    architecture: str
    mapping: str
    seed: int
    samples: int  # sequences that were used; 0 at level weights
    text: Text | None  # None for seeded sequences
    checks: list[Check]
    matches: list[Match]
    dropped: list[Dropped]
    outputs: list[Output]
    gradients: list[Gradient]
    activation: Activation | None
    causes: list[Cause]
    first_tensor: str  # the first tensor of the folder that differs; "" where none does
    first_output: str  # the first output along the forward pass that differs
    notes: list[str]
    unproved: list[str]  # those of the notes that say what nothing in the checkpoint proves
    positions: int = 0  # the most of a sequence that outputs were compared at; 0 at level weights
    record: Recording | None = None  # None where the checkpoint itself was read
    versions: dict[str, str] = {}  # of Python and of the packages that computed
    faulty: list[Faulty] = []  # in the order of the forward pass
    facts: list[Fact] = []  # what level weights found, in a few words
    sources: list[SourceFile] = []  # the checkpoint's index, config and vocabulary

    @property
    def passed(self) -> bool:
        """Whether everything that was compared agrees."""
        return all(check.passed for check in self.checks)

    def passed_at(self, level: str) -> bool:
        """Whether a level was run, and everything agrees there."""
        checks = self.at(level)
        return bool(checks) and all(check.passed for check in checks)

    def at(self, level: str) -> list[Check]:
        """The checks of one level."""
        return [check for check in self.checks if check.level == level]


class Failure(Struct, frozen=True):
    """A proof that came to no verdict."""

    checkpoint: str
    out: str
    error: str


def relative(difference: float, scale: float) -> float:
    """difference / scale; 0 where there is no difference, infinite where the scale alone is 0."""
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.inf


def ulp(scale: float) -> float:
    """The distance from a magnitude to the next float32 (2^-23 of its power of two)."""
    if not math.isfinite(scale):
        return 0.0
    exponent = math.frexp(scale)[1] - 1 if scale else -126
    return math.ldexp(1.0, max(exponent, -126) - 23)
