"""CLIP checkpoints on disk: OpenCLIP's folder layout (`open_clip_config.json` beside its weights)."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class ClipCheckpoint:
    """A CLIP model with what is needed to feed it.

    Attributes:
        model: OpenCLIP model in evaluation mode, fp32; `encode_image` takes normalized RGB [B, 3, R, R],
            `encode_text` token ids [B, L].
        config: content of `open_clip_config.json`.
        tokenizer: maps texts to token ids int64 [B, L].
    """

    model: nn.Module
    config: dict[str, Any]
    tokenizer: Any

    @property
    def encode_image(self) -> Callable[[Tensor], Tensor]:
        """Maps normalized RGB [B, 3, R, R] to embeddings [B, D], not yet of unit length."""
        return cast("Callable[[Tensor], Tensor]", self.model.encode_image)

    @property
    def encode_text(self) -> Callable[[Tensor], Tensor]:
        """Maps token ids [B, L] to embeddings [B, D], not yet of unit length."""
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
        return None if bias is None else float(bias)

    @property
    def mean(self) -> tuple[float, ...]:
        """Per-channel mean of RGB in [0, 1] that the image tower expects to be subtracted."""
        return tuple(self.config["preprocess_cfg"]["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """Per-channel standard deviation of RGB in [0, 1] that the image tower expects to be divided by."""
        return tuple(self.config["preprocess_cfg"]["std"])


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
    """Build an untrained model from the content of an `open_clip_config.json`."""
    model = open_clip.CLIP(**config["model_cfg"])
    tokenizer = open_clip.SimpleTokenizer(context_length=config["model_cfg"]["text_cfg"]["context_length"])
    return ClipCheckpoint(model=model, config=config, tokenizer=tokenizer)


def load_clip(folder: str | Path) -> ClipCheckpoint:
    """Load a CLIP checkpoint folder in OpenCLIP's layout, in fp32, on the CPU.

    Raises:
        FileNotFoundError: the folder lacks `open_clip_config.json` or weights.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"no {CONFIG_NAME} in {folder}; a CLIP checkpoint is a folder in OpenCLIP's layout")
    if not any(folder.glob("open_clip_*model*")) and not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"no weights in {folder}; expected {WEIGHTS_NAME}")
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name, precision="fp32").eval()
    return ClipCheckpoint(model=model, config=config, tokenizer=open_clip.get_tokenizer(name))


def load_open_clip(model_name: str, weights: str) -> ClipCheckpoint:
    """Load a model that OpenCLIP knows by name, in fp32, on the CPU.

    Args:
        model_name: OpenCLIP's name, for example "ViT-B-32".
        weights: path of a weight file, or a tag that OpenCLIP downloads.

    Raises:
        ValueError: OpenCLIP knows no such model or tag.
    """
    model_cfg = open_clip.get_model_config(model_name)
    if model_cfg is None:
        raise ValueError(f"OpenCLIP knows no model {model_name!r}; open_clip.list_models() lists them")
    try:
        model = open_clip.create_model(model_name, pretrained=weights, precision="fp32", require_pretrained=True).eval()
    except (RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{weights} can't be loaded as weights of {model_name}: {reason}") from error
    config = {"model_cfg": model_cfg, "preprocess_cfg": open_clip.get_model_preprocess_cfg(model)}
    return ClipCheckpoint(model=model, config=config, tokenizer=open_clip.get_tokenizer(model_name))


def save_clip(checkpoint: ClipCheckpoint, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint folder that `load_clip` and `open_clip.create_model("local-dir:...")` read.

    Args:
        checkpoint: what to write.
        folder: made if missing.
        dtype: of the stored floating-point weights; float16 halves the size.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text(json.dumps(checkpoint.config, indent=2) + "\n", encoding="utf-8")
    state = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for name, value in checkpoint.model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    return folder
