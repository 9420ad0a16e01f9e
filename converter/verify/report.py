"""A verdict in four forms: lines for a terminal, JSON, JUnit, and an HTML page with pictures."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ... import __version__
from ..choices import LEVELS
from ..errors import VerificationError
from ..fold import fold
from ..text import counted, joined, pip_install, to_json_lines
from .verdict import (
    ACCURACY_RATIO,
    ACCURACY_ULPS,
    SAME_FUNCTION,
    SAME_GRADIENT,
    Cause,
    Failure,
    Output,
    Recording,
    Verdict,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MEANING = {
    "weights": "every tensor equals its variable; none is missing or extra",
    "outputs": "both sides compute the same function",
    "gradients": "both sides train alike",
}
"""What it means that a level is passed."""

BOUNDS = {
    "float64_relative": SAME_FUNCTION,
    "float32_ratio": ACCURACY_RATIO,
    "float32_ulps": ACCURACY_ULPS,
    "gradient_relative": SAME_GRADIENT,
}
"""The bounds that a verdict was held to, by their names in JSON."""

_MOST_SHOWN = 8
_INKS = {"TensorFlow": "#e37400", "PyTorch": "#1a5fb4", "float64": "#3d3d3d"}


def lines(verdict: Verdict) -> Iterator[str]:
    """The report for a terminal of 80 columns, in plain text."""
    yield f"{verdict.checkpoint} -> {verdict.out}"
    if verdict.record is not None:
        yield from _wrapped(f"the reference is {record_text(verdict.record)}")
    yield f"{verdict.architecture}, {len(verdict.matches):,} tensors"
    for level in LEVELS[: LEVELS.index(verdict.level) + 1]:
        checks = verdict.at(level)
        passed = verdict.passed_at(level)
        yield ""
        word = f"same, {MEANING[level]}" if passed else "DIFFERENT" if checks else "NOT RUN"
        yield f"{level}: {word}"
        for check in checks:
            yield from _wrapped(f"  {'ok' if check.passed else 'NO'}  {check.name}: {check.detail}")
        if level == "outputs" and verdict.outputs:
            yield from _wrapped(f"  on {sequences_text(verdict)}:")
            yield from _output_table(verdict.outputs)
    if verdict.activation is not None:
        yield ""
        yield from _wrapped(f"activation: {activation_sentence(verdict)}")
    yield ""
    for note in verdict.notes:
        yield from _wrapped(f"{'not proved' if note in verdict.unproved else 'note'}: {note}")
    if verdict.passed:
        yield from _wrapped(
            f"PASS: all {len(verdict.matches):,} tensors and the metadata match the checkpoint"
            f" (level {verdict.level}){_except(verdict)}"
        )
        return
    yield f"FAIL: the folder differs from the checkpoint (level {verdict.level})"
    if verdict.first_tensor:
        yield f"  the first tensor that differs: {verdict.first_tensor}"
    if verdict.first_output:
        yield f"  the first output that differs: {verdict.first_output}"
    if verdict.faulty:
        yield from _wrapped(f"  {faulty_sentence(verdict)}")
    for cause in verdict.causes:
        yield from _wrapped(f"  {cause.kind}: {names_of(cause)}: {cause.text}")
    if not verdict.causes and (verdict.first_tensor or verdict.first_output):
        yield "  no known cause was recognized"


def names_of(cause: Cause) -> str:
    """The first tensors that show a cause, and how many more."""
    rows = fold(((name,), None) for name in cause.tensors)
    names = ", ".join(name for (name,), _, _ in rows[:3])
    return f"{names} and {len(rows) - 3:,} more" if len(rows) > 3 else names


def faulty_sentence(verdict: Verdict) -> str:
    """Which parts differ by themselves; "" where none is known to."""
    rows = fold(((part.tensor,), None) for part in verdict.faulty)
    if not rows:
        return ""
    parts = "this part differs" if len(verdict.faulty) == 1 else "these parts differ"
    names = joined([name for (name,), _, _ in rows], _MOST_SHOWN)
    return f"{parts} even if fed the original's input: {names}"


def _except(verdict: Verdict) -> str:
    """That something is not proved, to go after a verdict that passed."""
    count = len(verdict.unproved)
    if not count:
        return ""
    return f"; {count:,} {'fact is' if count == 1 else 'facts are'} not proved"


def activation_sentence(verdict: Verdict) -> str:
    """What the activation is, and how much the other form would change."""
    found = verdict.activation
    if found is None:
        return ""
    return f"{found.matches} matches; {found.other} would move {found.where} by {found.cost:.1e}"


def findings(verdict: Verdict) -> str:
    """What a verdict that passed says, and within which bounds; no figure of one machine."""
    equal = "the cast of its variable" if any(m.cast for m in verdict.matches) else "its variable"
    bits = "" if any(m.cast for m in verdict.matches) else ", bit for bit"
    parts = [f"every tensor equals {equal}{bits}, and every variable is accounted for"]
    if verdict.level != "weights":
        parts.append(
            "TensorFlow and transformers compute the same function, within"
            f" {SAME_FUNCTION:.0e} in float64 and with errors alike in float32, on"
            f" {sequences_text(verdict)}"
        )
    if verdict.level == "gradients":
        parts.append(f"all gradients agree within {SAME_GRADIENT:.0e}")
    unproved = "".join(f" Not proved: {fact}." for fact in verdict.unproved)
    return f"{'; '.join(parts)}.{unproved}"


def record_text(record: Recording) -> str:
    """Which golden record took the place of the checkpoint."""
    computed = f", with TensorFlow {record.tensorflow}" if record.tensorflow else ""
    return f"the golden record {record.file}, made {record.made} by {record.tool}{computed}"


def sequences_text(verdict: Verdict) -> str:
    """Which sequences went through both models, and how much of them was compared."""
    where = f"at up to {counted(verdict.positions, 'position')} of each"
    if verdict.text is not None:
        return f"{counted(verdict.text.lines, 'line')} of {verdict.text.name}, {where}"
    return f"{counted(verdict.samples, 'seeded sequence')} (seed {verdict.seed}), {where}"


def to_json(verdict: Verdict | Failure) -> bytes:
    """The whole verdict as one JSON document, with the bounds that were held.

    Without a verdict, it has `error`.
    """
    if isinstance(verdict, Failure):
        tool = f"bertconvert {__version__}"
        return to_json_lines({"tool": tool, "passed": False, **msgspec.to_builtins(verdict)})
    document = {
        "tool": f"bertconvert {__version__}",
        "passed": verdict.passed,
        "bounds": BOUNDS,
        **msgspec.to_builtins(verdict),
        "outputs": [output_figures(output) for output in verdict.outputs],
    }
    document["gradients"] = [
        {**msgspec.to_builtins(gradient), "relative": gradient.relative}
        for gradient in verdict.gradients
    ]
    return to_json_lines(document)


def output_figures(output: Output) -> dict[str, object]:
    """An output with its relative figures, for JSON."""
    return {
        **msgspec.to_builtins(output),
        "relative": output.relative,
        "ratio": output.ratio,
        "share": output.share,
        "ulp": output.ulp,
    }


def to_junit(verdict: Verdict | Failure) -> bytes:
    """JUnit XML: a suite for each level, a case for each check, tensor, output and parameter.

    What is not proved is a case that was skipped. Without a verdict, there is one case, an error.
    """
    from xml.etree import ElementTree

    root = ElementTree.Element("testsuites")
    if isinstance(verdict, Failure):
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name="bertconvert verify",
            tests="1",
            failures="0",
            errors="1",
            skipped="0",
        )
        case = ElementTree.SubElement(suite, "testcase", classname="verify", name="verdict")
        ElementTree.SubElement(case, "error", message=plain(verdict.error))
        return _xml(root)
    for level in LEVELS[: LEVELS.index(verdict.level) + 1]:
        cases = [(check.name, check.passed, check.detail) for check in verdict.at(level)]
        cases += list(_cases(verdict, level))
        failures = sum(not passed for _, passed, _ in cases)
        unproved = verdict.unproved if level == LEVELS[0] else []
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"bertconvert verify: {level}",
            tests=str(len(cases) + len(unproved)),
            failures=str(failures),
            errors="0",
            skipped=str(len(unproved)),
        )
        for name, passed, detail in cases:
            case = ElementTree.SubElement(suite, "testcase", classname=level, name=plain(name))
            if not passed:
                ElementTree.SubElement(case, "failure", message=plain(detail))
        for number, fact in enumerate(unproved, 1):
            name = f"not proved ({number})"
            case = ElementTree.SubElement(suite, "testcase", classname=level, name=name)
            ElementTree.SubElement(case, "skipped", message=plain(fact))
    return _xml(root)


def _xml(root: "Element") -> bytes:
    from xml.etree import ElementTree

    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True)) + b"\n"


def _cases(verdict: Verdict, level: str) -> Iterator[tuple[str, bool, str]]:
    """The tensors, outputs or parameters of a level: name, whether it passed, and why not."""
    if level == "weights":
        yield from ((m.tensor, m.same, f"differs from {m.variable}") for m in verdict.matches)
    elif level == "outputs":
        faulty = {part.tensor for part in verdict.faulty}
        for output in verdict.outputs:
            passed = output.same_function and output.as_accurate
            found = _output_sentence(output)
            if output.tensor in faulty:
                found += "; it differs even if fed the original's input"
            yield output.tensor, passed, found
    else:
        yield from ((g.tensor, g.passed, f"differs by {g.relative:.1e}") for g in verdict.gradients)


def plain(text: str) -> str:
    """Text on one line, with what can't be printed escaped, as names in a checkpoint may have."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def to_html(verdict: Verdict | Failure) -> bytes:
    """One page that needs no other file: tables, pictures (SVG), and a searchable list of tensors.

    Without a verdict, it has the error.

    Raises:
        VerificationError: jinja2 or matplotlib is not installed.
    """
    if isinstance(verdict, Failure):
        return _error_page(verdict)
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise VerificationError(
            f"--html needs jinja2 and matplotlib, and {error.name} can't be imported. Install them:"
            f" {pip_install('html', 'jinja2', 'matplotlib')}"
        ) from error
    template = (Path(__file__).parent / "report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(template).render(
        verdict=verdict,
        version=__version__,
        levels=LEVELS[: LEVELS.index(verdict.level) + 1],
        meaning=MEANING,
        activation=activation_sentence(verdict),
        faulty=faulty_sentence(verdict),
        exception=_except(verdict) if verdict.passed else "",
        sequences=sequences_text(verdict),
        errors=_errors_picture(verdict) if verdict.outputs else "",
        gradients=_gradients_picture(verdict) if verdict.gradients else "",
        bounds={
            "float64": SAME_FUNCTION,
            "ratio": ACCURACY_RATIO,
            "ulps": ACCURACY_ULPS,
            "gradient": SAME_GRADIENT,
        },
    )
    return page.encode("utf-8", "backslashreplace")


def _error_page(failure: Failure) -> bytes:
    from html import escape

    checkpoint, out, error = (
        escape(text) for text in (failure.checkpoint, failure.out, failure.error)
    )
    page = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>ERROR: {out}</title></head>
<body>
<h1>ERROR: no verdict</h1>
<p><code>{checkpoint}</code> &rarr; <code>{out}</code></p>
<pre>{error}</pre>
<p>bertconvert {__version__}</p>
</body>
</html>
"""
    return page.encode("utf-8", "backslashreplace")


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(
        text, 80, subsequent_indent="      ", break_on_hyphens=False, drop_whitespace=True
    )


def _output_table(outputs: list[Output]) -> Iterator[str]:
    yield "               float64    float32 error, in ULP at the tensor's scale"
    yield "  output       relative   TensorFlow   PyTorch   bound   max abs error"
    yield from map(_cells, outputs)


def _cells(output: Output) -> str:
    relative, theirs, ours, bound, error = figures(output)
    mark = "" if output.same_function and output.as_accurate else "  NO"
    return (
        f"  {output.tensor:<12} {relative:>8}   {theirs:>10}   {ours:>7}   {bound:>5}"
        f"   {error:>13}{mark}"
    )


def figures(output: Output) -> tuple[str, str, str, str, str]:
    """The figures of an output.

    Its difference in float64; in float32 TensorFlow's error, PyTorch's, and its bound, in ULP; and
    PyTorch's error as it is.
    """
    ulp = output.ulp or 1
    theirs, ours = output.tensorflow_error / ulp, output.pytorch_error / ulp
    bound = output.float32_bound / ulp
    return (
        f"{output.relative:.1e}",
        f"{theirs:.1f}",
        f"{ours:.{'1f' if ours < 1e4 else '0e'}}",
        f"{bound:.{'1f' if bound < 1e3 else '0e'}}",
        f"{output.pytorch_error:.1e}",
    )


def _output_sentence(output: Output) -> str:
    return (
        f"float64 differs by {output.relative:.1e} of its scale; float32 error"
        f" {output.pytorch_error:.1e} in PyTorch, {output.tensorflow_error:.1e} in TensorFlow, and"
        f" may be {output.float32_bound:.1e}"
    )


def _errors_picture(verdict: Verdict) -> str:
    """Error along the forward pass, relative to each tensor's scale, on a log scale."""
    names = [output.tensor for output in verdict.outputs]
    curves = {
        "TensorFlow, float32": (
            [o.tensorflow_error for o in verdict.outputs],
            _INKS["TensorFlow"],
            "s",
        ),
        "PyTorch, float32": ([o.pytorch_error for o in verdict.outputs], _INKS["PyTorch"], "o"),
        "the two sides, float64": (
            [o.float64_difference for o in verdict.outputs],
            _INKS["float64"],
            "^",
        ),
    }
    figure, axes = _figure(5.4, 4.2)
    for label, (errors, ink, marker) in curves.items():
        relative = [
            min(max(error / output.scale if output.scale else 0, 1e-18), 1e3)
            for error, output in zip(errors, verdict.outputs, strict=True)
        ]
        style = "--" if label.startswith("PyTorch") else "-"  # the curves may lie on each other
        axes.plot(relative, style, marker=marker, color=ink, label=label, markersize=4)
    axes.axhline(SAME_FUNCTION, color=_INKS["float64"], linestyle=":", linewidth=1)
    axes.annotate("bound of float64", (0, SAME_FUNCTION), fontsize=8, va="bottom")
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("error relative to the tensor's scale")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), fontsize=8, frameon=False, ncols=2)
    return _svg(figure)


def _gradients_picture(verdict: Verdict) -> str:
    """The largest difference of each part of the model, a bar each, on a log scale."""
    parts: dict[str, float] = {}
    for gradient in verdict.gradients:
        pieces = gradient.tensor.split(".")
        if "layer" in pieces:
            part = f"layer {pieces[pieces.index('layer') + 1]}"
        elif "embeddings" in pieces:
            part = "embeddings"
        else:
            part = gradient.group
        parts[part] = max(parts.get(part, 0.0), min(gradient.relative, 1e3))
    figure, axes = _figure(5.4, 1.1 + 0.24 * len(parts))
    names = list(parts)[::-1]
    values = [max(parts[name], 1e-18) for name in names]
    inks = ["#1a5fb4" if value <= SAME_GRADIENT else "#c01c28" for value in values]
    axes.barh(names, values, color=inks, height=0.65)
    axes.axvline(SAME_GRADIENT, color=_INKS["float64"], linestyle=":", linewidth=1)
    axes.annotate("bound", (SAME_GRADIENT, -0.4), fontsize=8, ha="right", rotation=90, va="bottom")
    axes.set_xscale("log")
    axes.set_xlim(left=1e-18, right=max(1e-8, *values))
    axes.tick_params(labelsize=8)
    axes.set_xlabel("largest relative difference of a gradient, float64")
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="both", which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    # Without these, the same verdict would give other bytes every time.
    with matplotlib.rc_context({"svg.hashsalt": "bertconvert", "svg.fonttype": "none"}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
