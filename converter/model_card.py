"""The model card: what the model is, how to load it, and where it came from."""

from collections import Counter

import msgspec

from .. import __version__
from .fold import fold
from .plan import Plan
from .prepare import Prepared
from .releases import Release, recognise
from .text import cut, joined

_MOST_NAMES = 40

_CARD = """\
---
{matter}
---

# {name}

`{architecture}` with {parameters:,} parameters, converted from a {origin} by bertconvert \
{version}, which reads the weights without TensorFlow {kept}.{known}

## Architecture

| | |
|---|---|
{rows}

## How to load it

{usage}

## Where it came from

{source}
{scores}{labels}{activation}
## What was skipped

{dropped}
{notes}
## How to verify

{proof}

`bertconvert verify CHECKPOINT FOLDER` checks this folder against the checkpoint: \
{checked}. `conversion.json` lists, for every tensor, the variable that it came from, the \
transform, and the variable's crc32c. The crc32c is TensorFlow's, from the checkpoint's index, and \
was checked when the variable was read. `bertconvert explain CHECKPOINT` shows the same without \
converting. Converting the checkpoint again gives the same weights, config, tokenizer and \
`conversion.json`, byte for byte.
{papers}"""

# What was proved is between these lines, so that a later proof can replace it.
_PROOF_BEGINS, _PROOF_ENDS = "<!-- bertconvert: what was proved -->", "<!-- end of the proof -->"

_USAGE = """\
```python
from transformers import {imports}

folder = "."  # or the name of this model on the Hub
model = {auto}.from_pretrained({arguments})
{tokenizer}```

You can also load it with any other head of transformers and fine-tune it.{also}"""

_TOKENIZER = """\
tokenizer = AutoTokenizer.from_pretrained(folder)
outputs = model(**tokenizer("Hello, world.", return_tensors="pt"))
"""

_MOST_LABELS = 100

_ROLES = {
    "layers": "layers",
    "hidden": "hidden size",
    "heads": "attention heads",
    "vocabulary": "vocabulary",
    "positions": "positions",
    "segments": "token types",
    "labels": "labels",
}


def model_card(prepared: Prepared, proof: str = "") -> str:
    """README.md of a model folder, with the front matter that the Hub reads.

    Args:
        prepared: the conversion.
        proof: what was proved, as Markdown; "" if nothing was.
    """
    plan, mapping = prepared.plan, prepared.mapping
    release = recognise(plan, prepared.do_lower_case)
    return _CARD.format(
        matter=_front_matter(prepared, release),
        name=_name(prepared, release),
        architecture=plan.architecture.name,
        parameters=plan.parameters,
        origin=mapping.card.source,
        version=__version__,
        kept="and keeps every bit of them" if _is_exact(prepared) else f"as {plan.dtype}",
        known=_known(release),
        rows=_rows(prepared),
        usage=_usage(prepared),
        source=_source(prepared, release),
        scores=_scores(release),
        labels=_labels(prepared),
        activation=_activation(prepared),
        dropped=_dropped(prepared),
        notes=_section(
            "What the converter noted", [f"- {' '.join(note.split())}" for note in plan.notes]
        ),
        proof=_proof_section(proof),
        checked="tensors, outputs and gradients" if mapping.reference else "all tensors",
        papers=_papers(prepared, release),
    )


def with_proof(card: str, proof: str) -> str | None:
    """A card with another proof; None if it has no place for one, such as a card of others.

    Args:
        card: the card, which may have been edited.
        proof: what was proved, as Markdown.
    """
    before, begins, rest = card.partition(_PROOF_BEGINS)
    _, ends, after = rest.partition(_PROOF_ENDS)
    return f"{before}{_proof_section(proof)}{after}" if begins and ends else None


def _proof_section(proof: str) -> str:
    text = f"\n{proof.strip().replace('<!--', '&lt;!--')}\n\n" if proof else ""
    return f"{_PROOF_BEGINS}\n{text}{_PROOF_ENDS}"


def _section(title: str, lines: list[str]) -> str:
    return "\n".join(["", f"## {title}", "", *lines, ""]) if lines else ""


def _front_matter(prepared: Prepared, release: Release | None) -> str:
    mapping = prepared.mapping
    matter: dict[str, object] = {
        "license": release.license if release and release.license else "unknown",
        "language": release.language if release else None,
        "library_name": "transformers",
        "pipeline_tag": prepared.plan.architecture.pipeline or None,
        "tags": [mapping.model_type, mapping.card.source.lower().replace(" ", "-"), "bertconvert"],
        "base_model": release.hub if release and release.hub else None,
    }
    # Every JSON value is a YAML value.
    return "\n".join(f"{key}: {msgspec.json.encode(v).decode()}" for key, v in matter.items() if v)


def _name(prepared: Prepared, release: Release | None) -> str:
    if release:
        return release.name
    sizes, roles = prepared.plan.sizes, prepared.mapping.roles
    title = prepared.mapping.title or prepared.plan.architecture.name
    if roles.layers in sizes and roles.hidden in sizes:
        return f"{title}, {sizes[roles.layers]} layers of {sizes[roles.hidden]}"
    return title


def _known(release: Release | None) -> str:
    if release is None:
        return ""
    return (
        f" Its sizes and variables are those of the published {release.name}. The sha256 of the"
        " index below can tell whether its weights are, too."
    )


def _is_exact(prepared: Prepared) -> bool:
    variables = prepared.checkpoint.variables
    return all(variables[e.variable].tf_dtype == e.dtype for e in prepared.plan.entries)


def _rows(prepared: Prepared) -> str:
    plan, mapping = prepared.plan, prepared.mapping
    titles = {getattr(mapping.roles, role): title for role, title in _ROLES.items()}
    rows: dict[str, object] = {
        titles.get(symbol, mapping.size_key(symbol).replace("_", " ")): plan.sizes[symbol]
        for symbol in mapping.sizes
        if symbol in plan.sizes
    }
    if plan.activation[1]:
        rows["activation"] = plan.activation[1]
    rows |= {
        "parameters": plan.parameters,
        "dtype": plan.dtype,
        "parts": ", ".join(plan.groups),
    }
    if mapping.tokenizers:
        lower = {
            True: "yes",
            False: "no",
            None: "unknown: the checkpoint came without a vocabulary",
        }
        rows["lower-cased text"] = lower[prepared.do_lower_case]
    return "\n".join(
        f"| {name} | {f'{value:,}' if isinstance(value, int) else value} |"
        for name, value in rows.items()
    )


def _usage(prepared: Prepared) -> str:
    plan, tokenizer = prepared.plan, prepared.vocabulary is not None
    auto = plan.architecture.auto
    if not auto:
        return f"Load it with the class `{plan.architecture.name}`."
    missing = [
        argument
        for group, argument in plan.architecture.without.items()
        if group not in plan.groups
    ]
    also = "" if auto == "AutoModel" else " `AutoModel` loads it without a head."
    if missing:
        also = f" Without {' and '.join(missing)}, transformers adds randomly initialized weights."
    return _USAGE.format(
        imports=f"{auto}{', AutoTokenizer' if tokenizer else ''}",
        auto=auto,
        arguments=", ".join(["folder", *missing]),
        tokenizer=_TOKENIZER if tokenizer else "",
        also=also,
    )


def _source(prepared: Prepared, release: Release | None) -> str:
    card = prepared.mapping.card
    license_known = release is not None and release.license != ""
    words = card.license if license_known else card.license_unknown
    return "\n".join(
        [
            *(
                [f"The release of these sizes: {release.url}", ""]
                if release and release.url
                else []
            ),
            "| file | name | bytes | sha256 |",
            "|---|---|---|---|",
            *(
                f"| {file.role} | `{_cell(file.name)}` | {file.size:,} | `{file.sha256}` |"
                for file in prepared.sources
            ),
            "",
            f"License of the source: {words or 'not known to the converter.'}",
        ]
    )


def _cell(text: str) -> str:
    """Text that stays within its cell of a table, whatever a file is called."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")


def _scores(release: Release | None) -> str:
    if release is None or not release.scores:
        return ""
    lines = [
        f"The published GLUE test scores of {release.name}, after fine-tuning on each task. They"
        " were not measured on this folder.",
        "",
        f"| {' | '.join(release.scores)} |",
        f"|{'---|' * len(release.scores)}",
        f"| {' | '.join(release.scores.values())} |",
    ]
    return _section("Scores", lines)


def _activation(prepared: Prepared) -> str:
    rule = prepared.mapping.activation
    if rule is None:
        return ""
    source, target = prepared.plan.activation
    text = prepared.mapping.card.activations.get(target, "")
    line = f"The checkpoint's `{source or 'null'}` is `{target}` in config.json (`{rule.config}`)."
    return _section("Activation", [f"{line} {text}".strip()])


def _labels(prepared: Prepared) -> str:
    plan, names = prepared.plan, prepared.labels
    lines = []
    if names is not None:
        lines += ["| id | label |", "|---|---|"]
        lines += [f"| {i} | {_cell(name)} |" for i, name in enumerate(names[:_MOST_LABELS])]
        if len(names) > _MOST_LABELS:
            lines.append(f"| ... | {len(names) - _MOST_LABELS:,} more are in config.json |")
    if problem := plan.config.get("problem_type"):
        lines += [*([""] if lines else []), f"config.json has `problem_type` = `{problem}`."]
    return _section("Labels", lines)


def _dropped(prepared: Prepared) -> str:
    plan = prepared.plan
    counts = Counter(drop.reason for drop in plan.dropped)
    usual = {drop.reason for drop in prepared.mapping.drop}
    lines = [
        f"- {count:,} {'variable' if count == 1 else 'variables'}: {reason}"
        + ("" if reason in usual else f" ({_names(plan, reason)})")
        for reason, count in sorted(counts.items())
    ] or ["Nothing: every variable of the checkpoint is in the model."]
    for tie in plan.ties:
        lines += ["", f"`{tie.pt}` is not written: transformers ties it to `{tie.to}`."]
    return "\n".join(lines)


def _names(plan: Plan, reason: str) -> str:
    """The variables that are skipped for a reason."""
    rows = fold(((drop.variable,), None) for drop in plan.dropped if drop.reason == reason)
    return joined([f"`{_cell(cut(name))}`" for (name,), _, _ in rows], _MOST_NAMES)


def _papers(prepared: Prepared, release: Release | None) -> str:
    papers = [(paper.title, paper.arxiv) for paper in prepared.mapping.card.papers]
    if release and release.paper:
        papers.append((release.paper, release.arxiv))
    return _section(
        "Papers",
        [
            f"- {title}." + (f" [arXiv:{arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else "")
            for title, arxiv in papers
        ],
    )
