"""The model in PyTorch, loaded by transformers the way a user does."""

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import VerificationError
from ..models.reference import Reference, Samples


def load_packages(architecture: str) -> None:
    """Import torch, transformers and the module of a class, and keep transformers quiet."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch  # noqa: F401
    import transformers

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with suppress(Exception):  # which loading the model will raise again
        getattr(transformers, architecture)  # takes as long as the two packages


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
    load_packages(architecture)
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
            if "ignore_mismatched_sizes" in first:  # whose details are in a log that is off
                first = "the tensors do not have the sizes that config.json gives"
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
    outputs, pooled = _run(model, reference, samples, output_hidden_states=True, **labels)
    if not outputs.hidden_states:
        name = type(model).__name__
        raise VerificationError(f"the {name} has no layers: config.json asks for none")
    embeddings, *layers = outputs.hidden_states
    named = {"embeddings": embeddings}
    named |= {f"layer_{number}": layer for number, layer in enumerate(layers)}
    return named | pooled | _of_heads(model, reference, outputs), outputs.get("loss")


def forward_apart(
    model: Any, reference: Reference, samples: Samples, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The outputs by the names of `forward`, where each part is fed the original's outputs.

    A part is the embeddings, a layer, the layer that pools, or a head. So a fault of one does not
    reach those after it. If the folder has fewer layers, or more, the heads are fed the original's
    last layer all the same.

    Args:
        model: with any number of layers.
        reference: what the proof knows of the family.
        samples: as for `forward`.
        given: what the original computes, by name: embeddings and layers [B, T, H], and `pooled`
            if there is one.

    Raises:
        VerificationError: the model does not run on these inputs, such as one of another width.
    """
    found: dict[str, Any] = {}
    *_, last = (name for name in given if name != "pooled")

    def before(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if found:
            return None
        found["embeddings"] = inputs[0]
        return (given["embeddings"], *inputs[1:])

    def after(_: Any, inputs: Any, output: Any) -> Any:
        name = f"layer_{len(found) - 1}"  # a module may be called again, as another layer
        found[name] = output
        return given.get(name, given[last])

    def at_the_end(_: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = given[last]
        return output

    hooks = [model.base_model.encoder.register_forward_hook(at_the_end)]
    for module in model.modules():
        if type(module).__name__ == reference.LAYER:
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        outputs, pooled = _run(model, reference, samples, given.get("pooled"))
    finally:
        for hook in hooks:
            hook.remove()
    return found | pooled | _of_heads(model, reference, outputs)


def _run(
    model: Any, reference: Reference, samples: Samples, pooled: Any = None, **arguments: Any
) -> tuple[Any, dict[str, Any]]:
    """What a model returns, and what pooling gave, if there is any.

    If `pooled` is given, the heads are fed that instead.
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
    found: dict[str, Any] = {}
    masked = torch.from_numpy(samples.masked)

    def pool(_: Any, inputs: Any, output: Any) -> Any:
        found["pooled"] = output
        return pooled

    def gather(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, 1)[masked][None],)

    hooks = []
    for layer in reference.POOLING[-1:]:
        if (module := _layer(model, layer)) is not None:
            hooks.append(module.register_forward_hook(pool))
    if (head := _masked_lm(model, reference)) is not None:
        hooks.append(head.register_forward_pre_hook(gather))
    try:
        return model(**given, **arguments, return_dict=True), found
    except Exception as error:  # whatever it raises, the folder caused it
        first = str(error).strip().partition("\n")[0]
        raise VerificationError(f"the {name} does not run: {first}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _of_heads(model: Any, reference: Reference, outputs: Any) -> dict[str, Any]:
    """The heads' outputs, of what a model returns."""
    names = reference.OUTPUTS[type(model).__name__]
    named = {ours: outputs[theirs] for theirs, ours in names.items()}
    if "mlm_logits" in named:  # [1, M, V]
        named["mlm_logits"] = named["mlm_logits"][0]
    return named


def _layer(model: Any, name: str) -> Any | None:
    return getattr(model.base_model, name, None)


def _masked_lm(model: Any, reference: Reference) -> Any | None:
    """The head of a masked language model, if the class has one."""
    return dict(model.named_modules()).get(reference.MASKED_LM)
