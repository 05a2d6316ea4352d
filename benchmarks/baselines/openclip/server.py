"""FastAPI with one call a request: `uvicorn benchmarks.baselines.openclip.server:app`.

A plain `def`: FastAPI runs it in a thread, so that the model does not block the server.
"""

# Runs in an environment of its own, which pyright does not look into.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, File

from benchmarks.baselines.openclip.model import load_from_environment

app = FastAPI()
classifier = load_from_environment()


@app.post("/classify")
def classify(file: Annotated[bytes, File()]) -> dict[str, float]:
    """Return the best labels of an image with their probabilities."""
    pixels = classifier.decode(file).unsqueeze(0)
    return classifier.classify(pixels)[0]


@app.get("/health")
def health() -> str:
    """Say that the model is loaded."""
    return "ok"
