"""The model card: what came out, where it came from, and what to know before using it."""

from collections import Counter

import msgspec

from .. import __version__
from .prepare import Prepared
from .releases import Release, recognise

_BERT_PAPER = (
    "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
    " (Devlin, Chang, Lee, Toutanova; 2018)",
    "1810.04805",
)
_AUTO_CLASS = {
    "BertForPreTraining": "AutoModelForPreTraining",
    "BertForMaskedLM": "AutoModelForMaskedLM",
    "BertForNextSentencePrediction": "AutoModelForNextSentencePrediction",
    "BertForSequenceClassification": "AutoModelForSequenceClassification",
    "BertForTokenClassification": "AutoModelForTokenClassification",
    "BertForQuestionAnswering": "AutoModelForQuestionAnswering",
}


def model_card(prepared: Prepared, proof: str = "") -> str:
    """README.md of a model folder, with the front matter that the Hub reads.

    Args:
        prepared: the conversion.
        proof: what was proved of the folder; "" where nothing was.
    """
    plan = prepared.plan
    release = recognise(plan, prepared.do_lower_case)
    parts = [
        _front_matter(prepared, release),
        _title(prepared, release),
        _architecture(prepared),
        _usage(prepared),
        _source(prepared, release),
    ]
    if release and release.scores:
        parts.append(_scores(release))
    parts += [_activation(prepared), _dropped(prepared), _verify(proof), _papers(release)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(prepared: Prepared, release: Release | None) -> str:
    matter: dict[str, object] = {
        "license": release.license if release and release.license else "unknown",
        "language": release.language if release else None,
        "library_name": "transformers",
        "pipeline_tag": prepared.plan.architecture.pipeline or None,
        "tags": [prepared.mapping.model_type, "tensorflow-1-checkpoint", "bertconvert"],
        "base_model": release.hub if release and release.hub else None,
    }
    # Every JSON value is a YAML value.
    lines = [f"{key}: {msgspec.json.encode(v).decode()}" for key, v in matter.items() if v]
    return "\n".join(["---", *lines, "---"])


def _name(prepared: Prepared, release: Release | None) -> str:
    if release:
        return release.name
    config = prepared.plan.config
    layers, hidden = config.get("num_hidden_layers"), config.get("hidden_size")
    known = layers is not None and hidden is not None  # another mapping may call them otherwise
    return f"BERT, {layers} layers of {hidden}" if known else prepared.plan.architecture.name


def _title(prepared: Prepared, release: Release | None) -> str:
    plan = prepared.plan
    kept = "and keeps every bit of them" if _is_exact(prepared) else f"as {plan.dtype}"
    known = (
        f" Its sizes and variables are those of {release.name}, as Google published it; whether"
        " its weights are, the checksum of the index below can tell."
        if release
        else ""
    )
    return (
        f"# {_name(prepared, release)}\n\n"
        f"A `{plan.architecture.name}` with {plan.parameters:,} parameters, converted from a"
        f" TensorFlow 1 checkpoint by bertconvert {__version__}, which reads the weights without"
        f" TensorFlow {kept}.{known}"
    )


def _is_exact(prepared: Prepared) -> bool:
    variables = prepared.checkpoint.variables
    return all(variables[e.variable].tf_dtype == e.dtype for e in prepared.plan.entries)


def _architecture(prepared: Prepared) -> str:
    config = prepared.plan.config
    lower = {True: "yes", False: "no", None: "unknown: the checkpoint came without a vocabulary"}
    rows = {
        "layers": config.get("num_hidden_layers"),
        "hidden size": config.get("hidden_size"),
        "attention heads": config.get("num_attention_heads"),
        "intermediate size": config.get("intermediate_size"),
        "vocabulary": config.get("vocab_size"),
        "positions": config.get("max_position_embeddings"),
        "activation": config.get("hidden_act"),
        "labels": config.get("num_labels"),
        "parameters": prepared.plan.parameters,
        "dtype": prepared.plan.dtype,
        "parts": ", ".join(prepared.plan.groups),
        "lower-cased text": lower[prepared.do_lower_case],
    }
    lines = [
        f"| {name} | {f'{value:,}' if isinstance(value, int) else value} |"
        for name, value in rows.items()
        if value is not None
    ]
    return "\n".join(["## Architecture", "", "| | |", "|---|---|", *lines])


def _usage(prepared: Prepared) -> str:
    plan = prepared.plan
    auto = _AUTO_CLASS.get(plan.architecture.name, "AutoModel")
    tokenizer = prepared.vocabulary is not None
    bare = "pooler" not in plan.groups and auto == "AutoModel"
    call = "folder, add_pooling_layer=False" if bare else "folder"
    lines = [
        f"from transformers import {auto}{', AutoTokenizer' if tokenizer else ''}",
        "",
        'folder = "."  # or the name of this model on the Hub',
        f"model = {auto}.from_pretrained({call})",
    ]
    if tokenizer:
        lines += [
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            'outputs = model(**tokenizer("Hello, world.", return_tensors="pt"))',
        ]
    also = "" if auto == "AutoModel" else " `AutoModel` gives the encoder alone."
    if bare:
        also = " Without that argument, transformers would make up a pooler that the model lacks."
    return "\n".join(["## How to load it", "", "```python", *lines, "```"]) + (
        f"\n\nAny other head of transformers can be put on it and fine-tuned.{also}"
    )


def _source(prepared: Prepared, release: Release | None) -> str:
    lines = [
        f"| {file.role} | `{_cell(file.name)}` | {file.size:,} | `{file.sha256}` |"
        for file in prepared.sources
    ]
    text = ["## Where it came from", ""]
    if release and release.url:
        text += [f"Google's release of these sizes: {release.url}", ""]
    text += ["| file | name | bytes | sha256 |", "|---|---|---|---|", *lines, ""]
    text.append(
        "License of the source: Apache-2.0, as Google's releases of BERT have it."
        if release and release.license
        else "License of the source: not known to the converter. Google's releases of BERT are"
        " under Apache-2.0; what was trained from them is its owner's to say."
    )
    return "\n".join(text)


def _cell(text: str) -> str:
    """Text that stays within its cell of a table, whatever a file is called."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")


def _scores(release: Release) -> str:
    heads = " | ".join(release.scores)
    values = " | ".join(release.scores.values())
    return (
        f"## Scores\n\nGLUE test scores of {release.name} as Google published them, after"
        " fine-tuning on each task. They were not measured on this folder.\n\n"
        f"| {heads} |\n|{'---|' * len(release.scores)}\n| {values} |"
    )


def _activation(prepared: Prepared) -> str:
    source, target = prepared.plan.activation
    if source != "gelu":
        return f"## Activation\n\nThe checkpoint's `{source}` is `{target}` here."
    other = "gelu" if target != "gelu" else "gelu_pytorch_tanh"
    because = (
        "which is what Google's modeling.py computes since 2019-02-07 (commit bee6030): GELU by"
        " its tanh approximation."
        if target != "gelu"
        else "GELU by erf, as Google's modeling.py computed it before 2019-02-07 and as most ports"
        " on the Hub have it. Since then it computes the tanh approximation."
    )
    return (
        f"## Activation\n\n`hidden_act` is `{target}`, {because} With `{other}` the model is"
        " another function: on full-size models with random weights the MLM logits moved by"
        " 2.4e-4 (Tiny) to 4.5e-4 (Medium), a hundred times float32's rounding. Whoever wants it"
        " converts again with"
        f" `--activation {'erf' if other == 'gelu' else 'tanh'}`; the weights are the same."
    )


def _dropped(prepared: Prepared) -> str:
    plan = prepared.plan
    counts = Counter(drop.reason for drop in plan.dropped)
    if not counts:
        text = "Nothing: every variable of the checkpoint is in the model."
    else:
        text = "\n".join(
            f"- {count:,} {'variable' if count == 1 else 'variables'}: {reason}"
            for reason, count in sorted(counts.items())
        )
    ties = "".join(
        f"\n\n`{tie.pt}` is not written: it is `{tie.to}`, which transformers ties to it."
        for tie in plan.ties
    )
    notes = "".join(f"\n- {note}" for note in prepared.plan.notes)
    return f"## What was left behind\n\n{text}{ties}" + (
        f"\n\n## What the converter noted\n{notes}" if notes else ""
    )


def _verify(proof: str) -> str:
    verdict = f"{proof}\n\n" if proof else ""
    return (
        f"## How to verify\n\n{verdict}`bertconvert verify CHECKPOINT FOLDER` proves that this"
        " folder is the checkpoint: bit for bit, in what both compute, and in their gradients."
        " `conversion.json` lists, for every tensor, the variable it came from,"
        " what was done to it, and the variable's crc32c. That is TensorFlow's own, from the"
        " checkpoint's index, and was checked when the variable was read. `bertconvert explain"
        " CHECKPOINT` shows the same without converting, and converting the checkpoint again gives"
        " these files again, byte for byte."
    )


def _papers(release: Release | None) -> str:
    papers = [_BERT_PAPER]
    if release and release.arxiv:
        papers.append((release.paper, release.arxiv))
    lines = [
        f"- {title}. [arXiv:{arxiv}](https://arxiv.org/abs/{arxiv})" for title, arxiv in papers
    ]
    return "\n".join(["## Papers", "", *lines])
