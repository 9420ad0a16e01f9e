"""The folder in PyTorch, loaded by transformers the way a user does."""

import os
from pathlib import Path
from typing import Any

from ..errors import ParityError
from .samples import Batch

# What transformers calls its logits -> what `bert.forward` calls them.
_LOGITS = {
    "BertForPreTraining": {
        "prediction_logits": "mlm_logits",
        "seq_relationship_logits": "nsp_logits",
    },
    "BertForMaskedLM": {"logits": "mlm_logits"},
    "BertForNextSentencePrediction": {"logits": "nsp_logits"},
    "BertForSequenceClassification": {"logits": "logits"},
    "BertForTokenClassification": {"logits": "logits"},
    "BertForQuestionAnswering": {"start_logits": "start_logits", "end_logits": "end_logits"},
    "BertModel": {},
}


def load_model(folder: Path, architecture: str, dtype: str, pooler: bool) -> tuple[Any, list[str]]:
    """The model in evaluation mode, and what transformers made up because the folder lacks it.

    Args:
        folder: the model folder.
        architecture: the class, as config.json names it.
        dtype: `float64` or `float32`.
        pooler: whether the folder has a pooler. A class without one then gets that of `BertModel`,
            which loads the same folder.

    Raises:
        ParityError: transformers can't load it.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch
    import transformers

    if architecture not in _LOGITS:
        raise ParityError(f"there is no forward pass to compare a {architecture} with")
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def load(name: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        try:
            loaded = getattr(transformers, name).from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                output_loading_info=True,
                **arguments,
            )
        except Exception as error:  # whatever it raises, it is the folder's fault
            first = str(error).strip().partition("\n")[0]
            raise ParityError(f"transformers can't load {folder}: {first}") from error
        model, info = loaded
        return model.eval(), info

    bare = {} if architecture != "BertModel" or pooler else {"add_pooling_layer": False}
    model, info = load(architecture, **bare)
    made_up = [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]
    if pooler and model.base_model.pooler is None:
        base, info = load("BertModel")
        made_up += [f"bert.{key}" for key in info["missing_keys"]]
        model.base_model.pooler = base.pooler
    return model, sorted(made_up)


def forward(model: Any, batch: Batch, **labels: Any) -> tuple[dict[str, Any], Any]:
    """The outputs by the names of `bert.forward`, and the loss where there are labels.

    Everything is a torch tensor that can be differentiated.
    """
    import torch

    pooled: list[Any] = []
    pooler = model.base_model.pooler
    hook = pooler and pooler.register_forward_hook(lambda *args: pooled.append(args[-1]))
    try:
        outputs = model(
            input_ids=torch.from_numpy(batch.input_ids).long(),
            attention_mask=torch.from_numpy(batch.input_mask).long(),
            token_type_ids=torch.from_numpy(batch.segment_ids).long(),
            output_hidden_states=True,
            **labels,
        )
    finally:
        if hook:
            hook.remove()
    embeddings, *layers = outputs.hidden_states
    named = {"embeddings": embeddings}
    named |= {f"layer_{number}": layer for number, layer in enumerate(layers)}
    if pooled:
        named["pooled"] = pooled[0]
    named |= {own: outputs[name] for name, own in _LOGITS[type(model).__name__].items()}
    return named, outputs.get("loss")
