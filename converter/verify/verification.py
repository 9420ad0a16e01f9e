"""What stays of a proof in the model folder: verification.json, and what the card quotes of it.

conversion.json has the same bytes everywhere. What was proved depends on who proved it, and when,
so it has a file of its own. That file pins the files that were proved by their sha256: if one of
them changes, anyone can see that the proof is of others.
"""

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ... import __version__
from ..choices import LEVELS
from ..convert import Proof
from ..errors import OutputError
from ..layout import CARD, VERIFICATION
from ..model_card import with_proof
from ..storage.location import DiskPath, Location
from ..text import cut, joined, to_json_lines
from .model_folder import files_read, open_folder
from .report import BOUNDS, findings, output_figures
from .verdict import SAME_FUNCTION, SAME_GRADIENT, Verdict

_FORMAT = 1
_TOOL = "bertconvert "
_MOST_SHOWN = 5


class _Known(Struct, frozen=True):
    """What is read of a verification.json."""

    version: int
    tool: str
    files: dict[str, str]  # name -> sha256


def proof_of(verdict: Verdict, folder: Path) -> Proof:
    """What a verdict that passed leaves in the folder that it is about.

    Args:
        verdict: what was found.
        folder: the model folder, on disk. Its files are read once more for their sha256.
    """
    made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    files = {name: _sha256(folder / name) for name in files_read(open_folder(folder))}
    return Proof(
        sentence=f"Verified: {findings(verdict)}",
        card=_card(verdict, made),
        document=_document(verdict, made, files),
    )


def check_place(out: Location) -> None:
    """Refuse a folder that can't be written, or has a verification.json of others.

    Raises:
        OutputError: it has one, or it can't be read.
        ValueError: it is at a URL.
    """
    if not isinstance(out, DiskPath):
        raise ValueError(f"a proof can't be saved at {out.shown}: give a folder on a disk")
    _refuse_to_replace(out)


def _refuse_to_replace(out: Location) -> None:
    place = out.join(VERIFICATION)
    content = place.read_bytes()
    if content is not None and _read(content) is None:
        raise OutputError(f"{place.shown} exists, and bertconvert did not write it. Move it away")


def save_proof(proof: Proof, out: Location) -> str:
    """Write what was proved into a folder that exists: verification.json, then the card.

    Returns:
        What a person should know: that the card was left as it is; usually "".

    Raises:
        OutputError: a file can't be written, or a verification.json of others is in its place.
    """
    _refuse_to_replace(out)
    out.join(VERIFICATION).write_bytes(proof.document, flush=True)
    place = out.join(CARD)
    card = place.read_bytes()
    if card is None:
        return ""
    try:
        text = with_proof(card.decode(), proof.card)
    except UnicodeDecodeError:
        text = None
    if text is None:
        return f"{place.shown} has no place for the proof and was left as it is"
    place.write_bytes(text.encode(), flush=True)
    return ""


def outdated(folder: Path) -> str:
    """How a folder differs from the one that its verification.json is about; "" if it does not.

    Each file that is named there is read, which takes a second for 1 GB.
    """
    try:
        known = _read((folder / VERIFICATION).read_bytes())
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{VERIFICATION} can't be read: {error.strerror}"
    if known is None:
        return f"{VERIFICATION} is damaged, or bertconvert did not write it"
    if known.version != _FORMAT:
        return f"{VERIFICATION} has version {known.version} of its form, which is not known here"
    differ = [name for name, digest in known.files.items() if not _has(folder, name, digest)]
    if not differ:
        return ""
    names = joined([cut(name) for name in differ], _MOST_SHOWN)
    return f"{VERIFICATION} no longer fits this folder: since it was written, {names} changed"


def _has(folder: Path, name: str, digest: str) -> bool:
    path = folder / name
    if path.parent != folder or not os.path.isfile(path):  # the names come from a file
        return False
    try:
        return _sha256(path) == digest
    except OSError:
        return False


def _read(content: bytes) -> _Known | None:
    """The content of a verification.json; None if bertconvert did not write it."""
    try:
        known = msgspec.json.decode(content, type=_Known)
    except (ValueError, RecursionError):
        return None
    return known if known.tool.startswith(_TOOL) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _document(verdict: Verdict, made: str, files: dict[str, str]) -> bytes:
    """The file: its form is described in docs/output-files.md."""
    record = verdict.record
    levels = LEVELS[: LEVELS.index(verdict.level) + 1]
    worst = max(verdict.gradients, key=lambda gradient: gradient.relative, default=None)
    gradients = worst and {
        "parameters": len(verdict.gradients),
        "zero_by_mathematics": sum(g.zero_by_mathematics for g in verdict.gradients),
        "largest_relative": worst.relative,
        "tensor": worst.tensor,
    }
    return to_json_lines(
        {
            "version": _FORMAT,
            "tool": f"{_TOOL}{__version__}",
            "made": made,
            "passed": verdict.passed,
            "levels": {level: verdict.passed_at(level) for level in levels},
            "architecture": verdict.architecture,
            "mapping": verdict.mapping,
            "sources": verdict.sources,
            "record": record and replace(record, file=os.path.basename(record.file)),
            "versions": verdict.versions,
            "bounds": BOUNDS,
            "samples": verdict.samples,
            "positions": verdict.positions,
            "seed": verdict.seed,
            "text": verdict.text,
            "checks": verdict.checks,
            "outputs": [output_figures(output) for output in verdict.outputs],
            "gradients": gradients,
            "activation": verdict.activation,
            "notes": [note for note in verdict.notes if note not in verdict.unproved],
            "unproved": verdict.unproved,
            "files": files,
        }
    )


def _card(verdict: Verdict, made: str) -> str:
    """The same for people, with the largest figure of each kind."""
    versions, record = dict(verdict.versions), verdict.record
    reference = ""
    if record is not None:
        theirs = versions.pop("tensorflow", "")
        by = f", with tensorflow {theirs}" if theirs else ""
        reference = (
            f" The reference is a record of the checkpoint, {_code(os.path.basename(record.file))},"
            f" which {record.tool} made on {record.made[:10]}{by}."
        )
    packages = joined([f"{name} {version}" for name, version in versions.items()])
    return "\n".join(
        [
            f"Verified at level {verdict.level} on {made[:10]}, with {packages}:"
            f" {findings(verdict)}{reference}",
            *_figures(verdict),
            "",
            f"`{VERIFICATION}` has all figures, and the sha256 of each file that was proved.",
        ]
    )


def _figures(verdict: Verdict) -> Iterator[str]:
    """A table of the largest difference of each kind; nothing if no model was run."""
    if not verdict.outputs:
        return
    exact = max(verdict.outputs, key=lambda output: output.relative)
    coarse = max(verdict.outputs, key=lambda output: output.pytorch_error / (output.ulp or 1))
    near = max(verdict.outputs, key=lambda output: output.share)
    ulps = [error / (coarse.ulp or 1) for error in (coarse.pytorch_error, coarse.float32_bound)]
    rows: list[tuple[str, str, str, object]] = [
        ("outputs in float64, relative", f"{exact.relative:.1e}", exact.tensor, SAME_FUNCTION),
        ("PyTorch's error in float32, in ULP", f"{ulps[0]:.1f}", coarse.tensor, f"{ulps[1]:.1f}"),
        ("the same, in units of its bound", f"{near.share:.2f}", near.tensor, 1),
    ]
    if verdict.gradients:
        steep = max(verdict.gradients, key=lambda gradient: gradient.relative)
        found = f"{steep.relative:.1e}"
        rows.append(("gradients in float64, relative", found, steep.tensor, SAME_GRADIENT))
    yield from ("", "| compared | largest difference | of | bound |", "|---|---|---|---|")
    for compared, found, tensor, bound in rows:
        yield f"| {compared} | {found} | {_code(tensor)} | {bound} |"


def _code(name: str) -> str:
    """A name in a cell of a table."""
    return f"`{' '.join(name.split()).replace('|', '').replace('`', '')}`"
