"""The model in PyTorch, loaded by transformers the way a user does."""

import os
import warnings
from pathlib import Path
from typing import Any

from ..errors import VerificationError
from ..models.reference import Reference, Samples


def load_packages() -> None:
    """Import torch and transformers, and keep transformers quiet."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch  # noqa: F401
    import transformers

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def load_model(
    folder: Path, architecture: str, reference: Reference, groups: list[str], dtype: str
) -> tuple[Any, list[str]]:
    """Load a model folder in evaluation mode.

    Args:
        folder: the model folder.
        architecture: the class, as config.json names it.
        reference: what the proof knows of the family.
        groups: the mapping's groups that the folder has. A class without the layer that pools
            gets that of the base class, which loads the same folder.
        dtype: `float64` or `float32`.

    Returns:
        The model, and the names of the tensors that transformers initialized randomly because the
        folder lacks them.

    Raises:
        VerificationError: transformers can't load it.
    """
    load_packages()
    import torch
    import transformers

    if architecture not in reference.OUTPUTS:
        raise VerificationError(f"no forward pass is known to compare a {architecture} with")

    def load(name: str) -> tuple[Any, dict[str, Any]]:
        try:
            with warnings.catch_warnings():
                # A class may have an empty tensor, and torch says that it does not initialize it.
                warnings.filterwarnings("ignore", "Initializing zero-element tensors")
                loaded = getattr(transformers, name).from_pretrained(
                    folder,
                    dtype=getattr(torch, dtype),
                    local_files_only=True,
                    output_loading_info=True,
                    **reference.class_arguments(name, groups),
                )
        except Exception as error:  # whatever it raises, the folder caused it
            first = str(error).strip().partition("\n")[0]
            raise VerificationError(f"transformers can't load {folder}: {first}") from error
        model, info = loaded
        return model.eval(), info

    model, info = load(architecture)
    missing = [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]
    pooling = reference.POOLING
    if any(group in groups and _layer(model, group) is None for group in pooling[:1]):
        base, info = load(reference.BASE_CLASS)
        missing += [f"{base.base_model_prefix}.{key}" for key in info["missing_keys"]]
        for layer in pooling:
            setattr(model.base_model, layer, getattr(base, layer))
    return model, sorted(missing)


def forward(
    model: Any, reference: Reference, samples: Samples, **labels: Any
) -> tuple[dict[str, Any], Any]:
    """The outputs by the names of `Reference.forward`, and the loss if there are labels.

    A masked language model computes its logits at `samples.masked` only, and so [M, V], as
    TensorFlow's side does. Every output is a torch tensor that can be differentiated.

    Raises:
        VerificationError: the model does not run, such as one whose config asks for other layers.
    """
    import torch

    name = type(model).__name__
    inputs = {
        "input_ids": samples.input_ids,
        "attention_mask": samples.input_mask,
        "token_type_ids": samples.segment_ids,
    }
    given = {key: torch.from_numpy(array).long() for key, array in inputs.items()}
    if name in reference.CHOICES:
        given = {key: tensor[None] for key, tensor in given.items()}
    pooled: list[Any] = []
    last = [_layer(model, layer) for layer in reference.POOLING[-1:]]
    hooks = [
        layer.register_forward_hook(lambda *args: pooled.append(args[-1]))
        for layer in last
        if layer is not None
    ]
    masked = torch.from_numpy(samples.masked)
    head = _masked_lm(model, reference)
    if head is not None:
        hooks.append(
            head.register_forward_pre_hook(lambda _, given: (given[0].flatten(0, 1)[masked][None],))
        )
    try:
        outputs = model(**given, output_hidden_states=True, **labels)
    except Exception as error:  # whatever it raises, the folder caused it
        first = str(error).strip().partition("\n")[0]
        raise VerificationError(f"the {name} does not run: {first}") from error
    finally:
        for hook in hooks:
            hook.remove()
    embeddings, *layers = outputs.hidden_states
    named = {"embeddings": embeddings}
    named |= {f"layer_{number}": layer for number, layer in enumerate(layers)}
    if pooled:
        named["pooled"] = pooled[0]
    named |= {ours: outputs[theirs] for theirs, ours in reference.OUTPUTS[name].items()}
    if head is not None:
        named["mlm_logits"] = named["mlm_logits"][0]
    return named, outputs.get("loss")


def _layer(model: Any, name: str) -> Any | None:
    return getattr(model.base_model, name, None)


def _masked_lm(model: Any, reference: Reference) -> Any | None:
    """The head of a masked language model, if the class has one."""
    return dict(model.named_modules()).get(reference.MASKED_LM)
