"""Which published release a checkpoint looks like; the data is in mappings/releases/."""

import msgspec
from msgspec import Struct

from .mapping import FOLDER
from .plan import Plan


class _Named(Struct, frozen=True, forbid_unknown_fields=True):
    sizes: dict[str, int]
    scores: dict[str, str] = {}
    common: bool = False


class Release(Struct, frozen=True, forbid_unknown_fields=True):
    """A published model, or several of one kind."""

    name: str
    sizes: dict[str, list[int]]  # by the mapping's symbols
    cased: bool
    language: str
    license: str = ""
    common: bool = False  # many models have these sizes, so the license does not follow from them
    url: str = ""
    hub: str = ""  # the same weights on the Hub
    paper: str = ""
    arxiv: str = ""
    named: dict[str, _Named] = {}
    scores: dict[str, str] = {}  # GLUE task -> test score


class _Releases(Struct, forbid_unknown_fields=True):
    head: str  # that a release has, in the mapping's words
    release: list[Release]
    skips: list[str] = []  # reasons for which variables of a release are skipped


def recognise(plan: Plan, do_lower_case: bool | None) -> Release | None:
    """The release of these sizes, if the checkpoint has all parts of a release and no others.

    It is recognized by sizes, head and casing, not by its weights, so a card has to say so.

    Args:
        plan: the conversion's plan.
        do_lower_case: whether the vocabulary is lower-cased; None if there is none.
    """
    path = FOLDER / "releases" / f"{plan.mapping}.toml"
    if plan.scope or not path.exists():
        return None
    known = msgspec.toml.decode(path.read_bytes(), type=_Releases)
    if plan.architecture.head != known.head:
        return None
    if {drop.reason for drop in plan.dropped} - {*known.skips}:
        return None
    for release in known.release:
        fits = all(plan.sizes.get(symbol) in sizes for symbol, sizes in release.sizes.items())
        if not fits or do_lower_case is release.cased:
            continue
        name, scores, common = release.name, release.scores, release.common
        for title, named in release.named.items():
            if named.sizes.items() <= plan.sizes.items():
                name, scores, common = title, named.scores, named.common
        try:
            return msgspec.structs.replace(
                release,
                name=name.format_map(plan.sizes),
                license="" if common else release.license,
                url="" if common else release.url.format_map(plan.sizes),
                hub="" if common else release.hub.format_map(plan.sizes),
                scores=scores,
            )
        except KeyError:  # a copy of the mapping may have other symbols
            continue
    return None
