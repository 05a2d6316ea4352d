"""Classify images by Triton's own KServe v2 port, past the gateway: python kserve.py HOST:PORT LABEL,LABEL... FILE...

Needs `pip install 'tritonclient[grpc]'`. The tensors are described in docs/tensor-contract.md. What the gateway does
for its callers is missing here: limits, keys, the choice of a route for each image, errors with field paths.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

TIMEOUT_S = 30.0


def text_tensor(name: str, values: list[bytes]) -> triton.InferInput:
    """Return a tensor of strings with the batch dimension first, as every model has it: [1, number of values]."""
    tensor = triton.InferInput(name, [1, len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array([values], dtype=np.object_))
    return tensor


def classify(client: triton.InferenceServerClient, content: bytes, labels: list[str]) -> list[tuple[str, float]]:
    """Return the labels with their probabilities, best first.

    Raises:
        InferenceServerException: its message is "clipsr:REASON: what is wrong".
    """
    inputs = [
        text_tensor("image", [content]),  # the file as it is; `classify_native` is for images that need no upscaling
        text_tensor("fit", [b""]),  # empty: as the model was trained
        text_tensor("labels", [label.encode() for label in labels]),
        text_tensor("templates", [b"@simple"]),  # or prompts with one {}
    ]
    answer = client.infer("classify", inputs, client_timeout=TIMEOUT_S)
    probabilities = answer.as_numpy("probability")[0]
    return [(labels[index], float(probabilities[index])) for index in np.argsort(-probabilities, kind="stable")]


def main(url: str, labels: str, *files: str) -> int:
    """Print the best label of each file; return 1 if one failed."""
    failed = 0
    with triton.InferenceServerClient(url) as client:
        for file in files:
            try:
                label, probability = classify(client, Path(file).read_bytes(), labels.split(","))[0]
                print(f"{file}: {label} {probability:.3f}")
            except InferenceServerException as error:
                failed = 1
                print(f"{file}: {error.message()}")
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
