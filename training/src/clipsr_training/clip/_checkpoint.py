"""CLIP checkpoints: OpenCLIP's folder layout (`open_clip_config.json` beside its weights), and named models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import Tensor, nn

from clipsr_training._files import make_output_folder, write_atomically, write_weights
from clipsr_training._finite import describe_not_finite
from clipsr_training.clip._errors import NotFiniteError
from clipsr_training.clip._hugging_face import is_hugging_face, read_hugging_face
from clipsr_training.clip._open_clip import (
    RANDOM_WEIGHTS,
    Report,
    adapt_config,
    build_model,
    build_random_model,
    find_weights,
    holds_tokenizer,
    load_tokenizer,
    model_config,
)
from clipsr_training.clip._published import published_config, split_config
from clipsr_training.clip._weights import ClipWeights, load_weights, read_weights

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
TAUGHT_NAME = "taught_names.txt"
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class ClipCheckpoint:
    """A CLIP model with what is needed to feed it.

    Attributes:
        model: OpenCLIP model in evaluation mode, fp32; `encode_image` takes normalized RGB [B, 3, R, R],
            `encode_text` token ids [B, L].
        config: content of `open_clip_config.json`.
        tokenizer: maps texts to token ids int64 [B, L].
        weights: where the weights come from: a path, a published tag, or "random" for none at all.
        taught_names: all that the model was taught to tell apart; None where that is not known.
    """

    model: nn.Module
    config: dict[str, Any]
    tokenizer: Any
    weights: str = ""
    taught_names: tuple[str, ...] | None = None

    @property
    def encode_image(self) -> Callable[[Tensor], Tensor]:
        """Map normalized RGB [B, 3, R, R] to embeddings [B, D], not yet of unit length."""
        return cast("Callable[[Tensor], Tensor]", self.model.encode_image)

    @property
    def encode_text(self) -> Callable[[Tensor], Tensor]:
        """Map token ids [B, L] to embeddings [B, D], not yet of unit length."""
        return cast("Callable[[Tensor], Tensor]", self.model.encode_text)

    @property
    def image_size_px(self) -> int:
        """R, side of the square input."""
        return int(self.config["model_cfg"]["vision_cfg"]["image_size"])

    @property
    def embed_dim(self) -> int:
        """D, width of the joint embedding."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def context_length(self) -> int:
        """L, tokens in a text."""
        return int(self.config["model_cfg"]["text_cfg"]["context_length"])

    @property
    def vocab_size(self) -> int:
        """Token ids that the text tower has an embedding for."""
        return int(cast("int", self.model.vocab_size))

    @property
    def is_random(self) -> bool:
        """Whether the weights were never trained: fit for measuring speed, for nothing else."""
        return self.weights == RANDOM_WEIGHTS

    @property
    def architecture(self) -> str:
        """Types of the two towers, for people."""
        text = getattr(self.model, "text", None) or self.model.transformer
        return f"{type(self.model.visual).__name__} + {type(text).__name__}"

    @property
    def logit_scale(self) -> float:
        """Factor on the cosines, as trained."""
        return float(cast("Tensor", self.model.logit_scale).detach().exp())

    @property
    def logit_bias(self) -> float | None:
        """Term after the factor of a checkpoint trained with a sigmoid loss; None for softmax checkpoints."""
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else float(bias.detach())

    @property
    def mean(self) -> tuple[float, ...]:
        """Per-channel mean of RGB in [0, 1] that the image tower expects to be subtracted."""
        return tuple(self.config["preprocess_cfg"]["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """Per-channel standard deviation of RGB in [0, 1] that the image tower expects to be divided by."""
        return tuple(self.config["preprocess_cfg"]["std"])

    @property
    def interpolation(self) -> str:
        """How images are resized: "bicubic" or "bilinear"."""
        # "random" varies it in training only; OpenCLIP takes bicubic for it at inference.
        named = self.config["preprocess_cfg"].get("interpolation") or "bicubic"
        return "bicubic" if named == "random" else named

    @property
    def resize_mode(self) -> str:
        """What of an image that is not square is seen.

        "shortest": its central square; "squash": all of it, stretched; "longest": all of it, with a border.
        """
        return self.config["preprocess_cfg"].get("resize_mode") or "shortest"

    @property
    def fill_color(self) -> int:
        """Grey level 0-255 of the border of "longest"."""
        return int(self.config["preprocess_cfg"].get("fill_color") or 0)


def bundled_config(name: str) -> dict[str, Any]:
    """Return a model configuration that comes with this package.

    Raises:
        FileNotFoundError: there is none of that name; the message lists those that exist.
    """
    folder = files("clipsr_training.clip").joinpath("configs")
    resource = folder.joinpath(f"{name}.json")
    if not resource.is_file():
        known = sorted(item.name.removesuffix(".json") for item in folder.iterdir())
        raise FileNotFoundError(f"no bundled CLIP configuration {name!r}; known: {', '.join(known)}")
    return json.loads(resource.read_text(encoding="utf-8"))


def build_clip(config: dict[str, Any]) -> ClipCheckpoint:
    """Build an untrained model from the content of an `open_clip_config.json`, in training mode."""
    tokenizer = load_tokenizer(config["model_cfg"], None)
    model = build_model(config["model_cfg"])
    return ClipCheckpoint(model=model, config=config, tokenizer=tokenizer, taught_names=())


def load_clip(folder: str | Path) -> ClipCheckpoint:
    """Load a checkpoint folder in OpenCLIP's layout, or a CLIP or SigLIP of `transformers`, in fp32, on the CPU.

    Raises:
        FileNotFoundError: the folder lacks a configuration or weights.
        ClipCheckpointError: the weights can't be read, or do not fit the configuration.
        ValueError: the file of taught names holds none.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file() and is_hugging_face(folder):
        config, weights, path = read_hugging_face(folder)
        model_cfg, described = config["model_cfg"], "config.json"
    else:
        config, weights, path = _read_open_clip(folder)
        model_cfg, described = _with_local_text_tower(config["model_cfg"], folder), CONFIG_NAME
    model = build_model(model_cfg).eval()
    load_weights(model, weights, path=str(path), model_name=f"{described} beside it")
    tokenizer = load_tokenizer(model_cfg, folder if holds_tokenizer(folder) else None)
    taught = read_taught_names(folder)
    return ClipCheckpoint(model=model, config=config, tokenizer=tokenizer, weights=path.name, taught_names=taught)


def read_taught_names(folder: Path) -> tuple[str, ...] | None:
    """Read what a model was taught to tell apart, one name a line beside its weights; None where that is missing.

    Raises:
        OSError: it can't be read.
        ValueError: it holds no names.
    """
    path = folder / TAUGHT_NAME
    if not path.is_file():
        return None
    names = tuple(dict.fromkeys(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()))
    if not names:
        raise ValueError(f"{path} holds no names; write one a line, or delete it")
    return names


def write_taught_names(names: Iterable[str], folder: Path) -> None:
    """Write the file that `read_taught_names` reads, each name once, in their order."""
    write_atomically(folder / TAUGHT_NAME, "".join(f"{name}\n" for name in dict.fromkeys(names)).encode())


def _read_open_clip(folder: Path) -> tuple[dict[str, Any], ClipWeights, Path]:
    """Return configuration, weights and their file."""
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"no {CONFIG_NAME} in {folder}; a CLIP checkpoint is a folder in OpenCLIP's layout, or a CLIP or SigLIP of "
            "transformers (config.json beside model.safetensors)"
        )
    path = _weights_in(folder)
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"].setdefault("context_length", 77)
    config["preprocess_cfg"] = merge_preprocess_dict(asdict(PreprocessCfg()), config.get("preprocess_cfg", {}))
    return config, read_weights(path), path


def _weights_in(folder: Path) -> Path:
    """Return the weight file of a checkpoint folder: the one of OpenCLIP's name, else the first."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS_SUFFIXES)
    paths.sort(key=lambda p: (p.suffix != ".safetensors", not p.name.startswith("open_clip_")))
    if not paths:
        raise FileNotFoundError(f"no weights in {folder}; expected {WEIGHTS_NAME}")
    return paths[0]


def _with_local_text_tower(model_cfg: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return the configuration with the text tower's own taken from a folder that holds it, so that no hub is asked."""
    text_cfg = model_cfg["text_cfg"]
    if folder is None or not text_cfg.get("hf_model_name") or not (folder / "config.json").is_file():
        return model_cfg
    return {**model_cfg, "text_cfg": {**text_cfg, "hf_model_name": str(folder)}}


def load_open_clip(
    model_name: str,
    weights: str,
    *,
    tokenizer: Path | None = None,
    preprocess: str | None = None,
    report: Report = lambda _: None,
) -> ClipCheckpoint:
    """Load a model that OpenCLIP knows by name, in fp32, on the CPU.

    Args:
        model_name: OpenCLIP's name, for example "ViT-B-32".
        weights: path of a weight file, a tag that OpenCLIP downloads, or "random" for none.
        tokenizer: folder with the files of a tokenizer or text tower that OpenCLIP takes from a hub; None asks the hub.
        preprocess: tag of the published weights that a file descends from, whose preparation of images and activation
            it shares; None finds out.
        report: called with one line for everything that differs from the named model.

    Raises:
        ClipCheckpointError: one of its subclasses, for an unknown name, missing or other weights, or no hub.
    """
    model_name, named_cfg = model_config(model_name)
    local_cfg = _with_local_text_tower(named_cfg, tokenizer)
    # First what fails fast: the hub is asked before minutes are spent on weights.
    tokenize = load_tokenizer(local_cfg, tokenizer)
    is_random = weights == RANDOM_WEIGHTS
    path, tag = (None, None) if is_random else find_weights(model_name, weights)
    content = None if path is None else read_weights(path)
    is_openai = content is not None and content.is_openai
    published = published_config(model_name, preprocess or tag, named_cfg, is_openai=is_openai, is_random=is_random)
    preprocess_cfg, of_model = split_config(published)
    if content is None:
        model = build_random_model(local_cfg)
    else:
        local_cfg = adapt_config({**local_cfg, **of_model}, content, report)
        model = build_model(local_cfg)
        load_weights(model, content, path=str(path), model_name=model_name)
    size = local_cfg["vision_cfg"]["image_size"]
    config = {
        "model_cfg": _with_text_tower(local_cfg, named_cfg),
        "preprocess_cfg": {**preprocess_cfg, "size": size},
    }
    return ClipCheckpoint(model=model.eval(), config=config, tokenizer=tokenize, weights=weights)


def _with_text_tower(model_cfg: dict[str, Any], named_cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the published name of the text tower again, not a folder of this machine."""
    if "hf_model_name" not in named_cfg["text_cfg"]:
        return model_cfg
    return {**model_cfg, "text_cfg": {**model_cfg["text_cfg"], "hf_model_name": named_cfg["text_cfg"]["hf_model_name"]}}


def set_input_side(checkpoint: ClipCheckpoint, side: int) -> ClipCheckpoint:
    """Return the model with another side of its square input, in pixels; its weights are shared.

    Raises:
        ValueError: the image tower has one side only: it is not one of timm's.
    """
    if side == checkpoint.image_size_px:
        return checkpoint
    visual = cast("Any", checkpoint.model.visual)
    if not hasattr(visual, "set_input_size"):
        raise ValueError(
            f"a {type(visual).__name__} takes pictures of {checkpoint.image_size_px} px only; another side can be set "
            "for image towers from timm"
        )
    visual.set_input_size(side)
    model_cfg, preprocess_cfg = (checkpoint.config[part] for part in ("model_cfg", "preprocess_cfg"))
    vision_cfg = {**model_cfg["vision_cfg"], "image_size": side}
    config = {"model_cfg": {**model_cfg, "vision_cfg": vision_cfg}, "preprocess_cfg": {**preprocess_cfg, "size": side}}
    return replace(checkpoint, config={**checkpoint.config, **config})


def save_clip(checkpoint: ClipCheckpoint, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint folder that `load_clip` and `open_clip.create_model("local-dir:...")` read.

    Args:
        checkpoint: what to write.
        folder: made if missing.
        dtype: of the stored floating-point weights; float16 halves the size.

    Raises:
        NotFiniteError: a weight is infinite or not a number, or becomes infinite in `dtype`; nothing is written.
        OSError: a file cannot be written; the message names it.
    """
    folder = Path(folder)
    state = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for name, value in checkpoint.model.state_dict().items()
    }
    if (fault := describe_not_finite(state)) is not None:
        raise NotFiniteError(f"{folder} is not written: {fault}")
    make_output_folder(folder)
    write_weights(folder / WEIGHTS_NAME, state, {"format": "pt"})
    # Tokenizers and text towers of transformers bring files of their own.
    for part in (checkpoint.tokenizer, getattr(getattr(checkpoint.model, "text", None), "config", None)):
        if part is not None and hasattr(part, "save_pretrained"):
            part.save_pretrained(str(folder))
    if checkpoint.taught_names:
        write_taught_names(checkpoint.taught_names, folder)
    # Last: a folder without it is no checkpoint.
    write_atomically(folder / CONFIG_NAME, f"{json.dumps(checkpoint.config, indent=2, allow_nan=False)}\n".encode())
    return folder
