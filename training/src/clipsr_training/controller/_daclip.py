"""Official DA-CLIP checkpoints, which hold a CLIP model and its controller at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import Tensor, nn

from clipsr_training._finite import describe_not_finite
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._errors import NotFiniteError, WeightsFormatError, WeightsMismatchError
from clipsr_training.clip._open_clip import adapt_config, build_model, load_tokenizer, model_config
from clipsr_training.clip._weights import ClipWeights, read_weights
from clipsr_training.controller._blocks import compare_shapes
from clipsr_training.controller._controller import Controller
from clipsr_training.controller._files import ControlledClip
from clipsr_training.controller._prototypes import embed_kinds

# The words that daclip_ViT-B-32 was trained on, in their order.
DACLIP_KINDS = (
    "motion-blurry",
    "hazy",
    "jpeg-compressed",
    "low-light",
    "noisy",
    "raindrop",
    "rainy",
    "shadowed",
    "snowy",
    "uncompleted",
)
# Published sizes, and what their texts of damage are; those of wild-daclip_ViT-L-14 were not published.
_PUBLISHED: dict[str, tuple[str, ...]] = {"ViT-B-32": DACLIP_KINDS, "ViT-L-14": ()}
_CLIP, _COPY, _CONTROL, _SCALE = "clip.", "visual.", "visual_control.", "logit_scale"
# What isn't part of the official controller: prototypes are texts there, and the scale stands above both parts.
_OURS = ("prototypes", _SCALE)
# Names inside the official controller and ours, the longer first.
_RENAMED = (
    ("transformer.transformer.", "tower.transformer."),
    ("transformer.zero_modules.", "connections."),
    ("", "tower."),
)


def load_daclip(
    path: str | Path, *, model_cfg: Mapping[str, Any] | None = None, kinds: Sequence[str] | None = None
) -> ControlledClip:
    """Load a DA-CLIP checkpoint in evaluation mode, in fp32, on the CPU. Nothing in the file is executed.

    Args:
        path: a file that DA-CLIP's training wrote, with `state_dict` beside an optimizer or bare; names may begin with
            `module.`.
        model_cfg: `model_cfg` of an `open_clip_config.json`, for files of a size that was not published; None finds it.
        kinds: words that the degradation embedding is compared with; None takes the published ones.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsFormatError: it is no DA-CLIP checkpoint, or its two copies of the image tower contradict each other.
        WeightsMismatchError: weights are missing, unknown, or of another shape.
        NotFiniteError: a weight is infinite or not a number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no DA-CLIP checkpoint at {path}")
    state = read_weights(path).state
    clip_state = _part(state, _CLIP)
    if not clip_state or not _part(state, _CONTROL):
        raise WeightsFormatError(f"{path} is no DA-CLIP checkpoint: it has no weights {_CLIP}* or no {_CONTROL}*")
    name, config = ("of the given configuration", model_cfg) if model_cfg else _published(path, clip_state)
    config = _complete(config, clip_state)
    model = build_model(config)
    size = int(config["vision_cfg"]["image_size"])
    words = _PUBLISHED.get(name, DACLIP_KINDS) if kinds is None else tuple(kinds)
    controller = Controller(cast("nn.Module", model.visual), size, words, order="reversed")
    _load(model, controller, state, str(path), f"daclip_{name}")
    clip = ClipCheckpoint(
        model=model.eval(),
        config={
            "model_cfg": config,
            "preprocess_cfg": {**merge_preprocess_dict(asdict(PreprocessCfg()), {}), "size": size},
        },
        tokenizer=load_tokenizer(config, None),
        weights=path.name,
    )
    with torch.no_grad():
        controller.prototypes.copy_(embed_kinds(clip, words))
    return ControlledClip(clip=clip, controller=controller.eval())


def _complete(model_cfg: Mapping[str, Any], clip_state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration with the sizes of the file, and with its naming: a text tower that is no module."""
    text_cfg = {"context_length": 77, **model_cfg["text_cfg"]}
    weights = ClipWeights(state=dict(clip_state), is_openai=False)
    adapted = adapt_config({**model_cfg, "text_cfg": text_cfg}, weights, lambda _: None)
    return {**adapted, "custom_text": False}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _published(path: Path, clip_state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Return name and configuration of the published size that the patches of a file have."""
    patches = clip_state.get("visual.conv1.weight")
    for name in _PUBLISHED:
        _, config = model_config(name)
        vision = config["vision_cfg"]
        if patches is not None and patches.shape == (vision["width"], 3, vision["patch_size"], vision["patch_size"]):
            return name, config
    raise WeightsFormatError(
        f"{path} has the sizes of none of DA-CLIP's published models ({', '.join(_PUBLISHED)}), and head counts can't "
        "be read from weights: give its configuration"
    )


def _load(model: nn.Module, controller: Controller, state: Mapping[str, Tensor], path: str, model_name: str) -> None:
    """Fill model and controller from all weights of a file, and from nothing else."""
    visual = cast("nn.Module", model.visual)
    trained = {name: value for name, value in controller.state_dict().items() if name not in _OURS}
    expected = {
        **{f"{_CLIP}{name}": value for name, value in model.state_dict().items()},
        **{f"{_COPY}{name}": value for name, value in visual.state_dict().items()},
        **{_official_name(name): value for name, value in trained.items()},
        _SCALE: controller.logit_scale,
    }
    # Scalars, or vectors of one element, as versions of OpenCLIP differ.
    state = {
        name: value.reshape(expected[name].shape)
        if name in expected and value.numel() == expected[name].numel() == 1
        else value
        for name, value in state.items()
    }
    if any(differences := compare_shapes(state, expected)):
        raise WeightsMismatchError(path, model_name, *differences)
    if (fault := describe_not_finite(state)) is not None:
        raise NotFiniteError(f"{path}: {fault}; the training diverged: take weights from before that")
    for name, value in _part(state, _COPY).items():
        if not torch.equal(value, state[f"{_CLIP}{_COPY}{name}"]):
            raise WeightsFormatError(
                f"{path} contradicts itself: {_COPY}{name} and {_CLIP}{_COPY}{name} are one weight, with two values"
            )
    model.load_state_dict(_part(state, _CLIP))
    controller.load_state_dict(
        {**controller.state_dict(), **{n: state[_official_name(n)] for n in trained}, _SCALE: state[_SCALE]}
    )


def _official_name(name: str) -> str:
    """Return DA-CLIP's name of a weight of our controller."""
    theirs, ours = next(pair for pair in _RENAMED if name.startswith(pair[1]))
    return f"{_CONTROL}{theirs}{name.removeprefix(ours)}"
