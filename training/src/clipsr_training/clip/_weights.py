"""Weight files of CLIP models: OpenAI's TorchScript archives, OpenCLIP's `.pt`, and safetensors."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clipsr_training._finite import describe_not_finite
from clipsr_training._pickles import load_pickle, strip_wrappers
from clipsr_training.clip._errors import NotFiniteError, WeightsFormatError, WeightsMismatchError

# Where training scripts keep the weights, beside optimizers and options.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
# Numbers that OpenAI's archives keep beside the weights; nothing else has them.
_OPENAI_FACTS = ("input_resolution", "context_length", "vocab_size")
# A buffer of older `transformers` that newer ones compute.
_OBSOLETE = frozenset({"text.transformer.embeddings.position_ids"})


@dataclass(frozen=True, kw_only=True)
class ClipWeights:
    """The content of a weight file.

    Attributes:
        state: tensors by name, without wrappers' prefixes.
        is_openai: whether OpenAI published the file: its models use QuickGELU.
    """

    state: dict[str, Tensor]
    is_openai: bool


def read_weights(path: Path) -> ClipWeights:
    """Read a weight file, whatever its format. Nothing that a pickle asks for is executed.

    Raises:
        WeightsFormatError: it holds no weights; the message says why.
        OSError: it can't be read.
    """
    try:
        content = _read(path)
    except (RuntimeError, SafetensorError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsFormatError(f"{path} can't be read as weights: {reason}") from error
    state = _unwrap(content)
    if not state:
        raise WeightsFormatError(
            f"{path} holds no weights: no table of named tensors, nor one named {', '.join(_WRAPPERS)}"
        )
    is_openai = any(name in state for name in _OPENAI_FACTS)
    return ClipWeights(state={k: v for k, v in state.items() if k not in _OPENAI_FACTS}, is_openai=is_openai)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if _is_torchscript(path):
        with warnings.catch_warnings():
            # TorchScript is deprecated; OpenAI's files stay what they are.
            warnings.simplefilter("ignore")
            return torch.jit.load(path, map_location="cpu").state_dict()
    return load_pickle(path)


def _is_torchscript(path: Path) -> bool:
    """Whether the file is an archive of code and constants, and not only of tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unwrap(content: Any) -> dict[str, Tensor]:
    """Return the tensors by their names, from inside the tables that training scripts put around them."""
    while isinstance(content, Mapping):
        state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            return strip_wrappers(state)
        content = inner
    return {}


def load_weights(model: nn.Module, weights: ClipWeights, *, path: str, model_name: str) -> None:
    """Load weights into a model, all of them and nothing else.

    OpenCLIP's own loader resizes positional embeddings that do not fit; here that is an error, as it changes results.

    Raises:
        WeightsMismatchError: names or shapes differ.
        NotFiniteError: a weight is infinite or not a number.
    """
    # OpenCLIP's function knows two classes of models, and looks at their attributes only.
    state = convert_state_dict(cast("Any", model), dict(weights.state))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    # A scalar or a vector of one element, as versions of OpenCLIP differ.
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in own and state[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own and name not in _OBSOLETE]
    reshaped = [
        f"{name}: {list(state[name].shape)} in the file, {list(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or reshaped:
        raise WeightsMismatchError(path, model_name, missing, unexpected, reshaped)
    state = {name: state[name] for name in own}
    if (fault := describe_not_finite(state)) is not None:
        raise NotFiniteError(f"{path}: {fault}; the training diverged: take weights from before that")
    model.load_state_dict(state)
