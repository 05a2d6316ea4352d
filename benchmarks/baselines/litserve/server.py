"""LitServe with batches: `python -m benchmarks.baselines.litserve.server HOST:PORT`."""

# Runs in an environment of its own, which pyright does not look into; it takes this folder for the package.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import base64
import os
import sys
from typing import Any

import litserve
import torch

from benchmarks.baselines.openclip.model import load_from_environment

# As many as there are callers in the comparison, and a wait that is short beside one image's time.
_MAX_BATCH_SIZE = 16
_BATCH_TIMEOUT_S = 0.005


class ClassifyAPI(litserve.LitAPI):
    """Decodes each image, classifies a batch."""

    def setup(self, device: str) -> None:
        """Load the model, in the process that runs it."""
        os.environ["BENCH_DEVICE"] = device
        self.classifier = load_from_environment()

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        """Return an image as [3, R, R]."""
        return self.classifier.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Return images as one tensor."""
        return torch.stack(inputs)

    def predict(self, pixels: torch.Tensor) -> list[dict[str, float]]:
        """Return the best labels of every image."""
        return self.classifier.classify(pixels)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        """Return the answers one by one."""
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, Any]:
        """Return an answer as it is sent."""
        return output


def main(address: str) -> None:
    """Serve until stopped."""
    host, _, port = address.rpartition(":")
    accelerator = "cuda" if os.environ.get("BENCH_DEVICE", "cpu").startswith("cuda") else "cpu"
    api = ClassifyAPI(max_batch_size=_MAX_BATCH_SIZE, batch_timeout=_BATCH_TIMEOUT_S, api_path="/classify")
    server = litserve.LitServer(api, accelerator=accelerator, workers_per_device=1, timeout=60)
    server.run(host=host, port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1])
