"""Zero-shot accuracy by clip-benchmark, in an environment that has it; run by `test_peer.py`.

    python peer_run.py CHECKPOINT_FOLDER CLASS_FOLDERS TEMPLATE

Prints top-1, top-5 and mean accuracy per class as JSON.
"""

from __future__ import annotations

import json
import sys

import clipsr_training  # noqa: F401  (torchvision imports beside a torch without its operators)

# isort: split
import open_clip
import torch
from clip_benchmark.metrics.zeroshot_classification import evaluate  # pyright: ignore[reportMissingImports]
from torchvision.datasets import ImageFolder


def main(checkpoint: str, folders: str, template: str) -> None:
    """Measure with the peer's own classifier, loop and metrics, in fp32."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{checkpoint}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{checkpoint}")
    images = ImageFolder(folders, preprocess)
    loader = torch.utils.data.DataLoader(images, batch_size=100)
    templates = [template.replace("{}", "{c}")]
    found = evaluate(model.eval(), loader, tokenizer, images.classes, templates, "cpu", amp=False)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
