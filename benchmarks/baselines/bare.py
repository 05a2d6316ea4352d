"""The bare engine in a process of its own: no server, no decoding, the same pixels again and again.

    python -m benchmarks.baselines.bare --engine 'openvino bf16' --repository DIR

Prints `ready` when everything is loaded; then answers each line of its input, a JSON object, with one line of JSON:
`{"batch": 8, "seconds": 5}` with `{"images_per_s": …, "cpu_ms": …}`, the latter processor time an image, and
`{"stages": true, "seconds": 1}` with the milliseconds that every stage of the service's path takes for one image by
itself, called one after the other without a server.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import onnxruntime
import torch

from benchmarks.baselines.engines import MODEL, ONNX_CUDA, OPENVINO_INT8, TORCH, TORCH_CUDA, float_engine
from benchmarks.baselines.labels import make_labels
from benchmarks.liif.graphs import Engine, Graph, prepare
from benchmarks.load.images import MADE_UP, read_images
from clipsr_serving.backends import ModelSpec, TensorSpec
from clipsr_serving.backends.openvino import OpenVinoSession
from clipsr_serving.images import make_canvas, make_native_pixels, read_image

__all__ = ["ENGINES", "main", "read_parameters", "time_call"]

ENGINES = (*get_args(Engine), OPENVINO_INT8, TORCH, TORCH_CUDA, ONNX_CUDA)
_N_LABELS = 100
# The signature of `upscale`: docs/tensor-contract.md.
_UPSCALE = {
    "canvas": ("UINT8", (-1, 3, -1, -1)),
    "box": ("FP32", (-1, 4)),
    "pixels": ("UINT8", (-1, 3, -1, -1)),
}
_PARAMETER = re.compile(r'^parameters \{ key: "(\w+)" value \{ string_value: "([^"]*)" \} \}', re.M)


def time_call(call: Callable[[], object], seconds: float) -> float:
    """Return the milliseconds of a call, the mean over `seconds`; three calls before do not count."""
    for _ in range(3):
        call()
    n_calls, begin = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - begin) < seconds or n_calls == 0:
        call()
        n_calls += 1
    return 1e3 * elapsed_s / n_calls


class Bare:
    """Sessions over the files of a model repository, prepared as they are asked for.

    Args:
        repository: an exported model repository.
        engine: one of ENGINES.
        weights: for PyTorch: OpenCLIP's name and a file of a state dict.
        n_threads: of the engine.
    """

    def __init__(self, repository: Path, engine: str, weights: tuple[str, Path] | None, n_threads: int) -> None:
        self._repository, self._engine, self._weights, self._n_threads = repository, engine, weights, n_threads
        self._manifest: Mapping[str, Any] = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))
        self._size_px = int(self._manifest["image_encoder"]["image_size_px"])
        self._prepared: dict[int, Callable[[], object]] = {}
        torch.set_num_threads(n_threads)

    def encode(self, batch: int, seconds: float) -> dict[str, float]:
        """Run the image encoder on batches of this size: images a second, and processor milliseconds an image."""
        if batch not in self._prepared:
            self._prepared[batch] = self._encoder(batch)
        n_calls, began_s = 0, time.process_time()

        def call() -> None:
            nonlocal n_calls
            n_calls += 1
            self._prepared[batch]()

        rate = 1e3 * batch / time_call(call, seconds)
        return {"images_per_s": rate, "cpu_ms": 1e3 * (time.process_time() - began_s) / (n_calls * batch)}

    def stages_ms(self, seconds: float) -> dict[str, float]:
        """Time each stage of both routes for one image; `seconds` a stage."""
        content = read_images(MADE_UP, 1)[0]
        sizes = self._manifest["upscaler"]["canvas_sizes_px"]

        def decode() -> tuple[np.ndarray, np.ndarray]:
            return make_canvas(read_image(content), fit="center_crop", canvas_sizes_px=sizes)

        canvas, box = decode()
        dim = int(self._manifest["image_encoder"]["embed_dim"])
        matrix = np.random.default_rng(0).normal(size=(len(make_labels(_N_LABELS)), dim)).astype(np.float32)
        calls: dict[str, Callable[[], object]] = {
            "decode": decode,
            "upscale": self._upscale({"canvas": canvas[None], "box": box[None]}),
            "image_encoder": self._encoder(1),
            "similarity": lambda: _softmax(matrix @ matrix[0]),
            "decode_native": lambda: make_native_pixels(
                read_image(content), fit="center_crop", image_size_px=self._size_px
            ),
        }
        return {name: time_call(call, seconds) for name, call in calls.items()}

    def text_s(self, n_labels: int) -> float:
        """Return the seconds that PyTorch takes for the embeddings of so many labels, tokenization included."""
        import open_clip

        if self._weights is None:
            raise SystemExit("bare: --weights is needed for texts")
        name, file = self._weights
        model: Any = open_clip.create_model(name, pretrained=str(file)).eval()
        tokenizer = open_clip.get_tokenizer(name)
        begin = time.perf_counter()
        with torch.inference_mode():
            texts = [f"a photo of a {label}." for label in make_labels(n_labels, series="torch")]
            for i in range(0, n_labels, 64):
                model.encode_text(tokenizer(texts[i : i + 64]), normalize=True)
        return time.perf_counter() - begin

    def _upscale(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """As the profile has it, whatever it lets run in bf16: what the service saves, its bare stage saves, too."""
        graph = self._graph("upscale", inputs)
        if self._engine == ONNX_CUDA:
            return _prepare_cuda(graph)
        if not self._engine.startswith("openvino"):
            return prepare(graph, "onnxruntime fp32", self._n_threads)
        tensors = {name: TensorSpec(name=name, data_type=t, shape=s) for name, (t, s) in _UPSCALE.items()}
        session = OpenVinoSession(
            ModelSpec(
                name="upscale",
                model_file=graph.path,
                max_batch_size=len(inputs["box"]),
                inputs=(tensors["canvas"], tensors["box"]),
                outputs=(replace(tensors["pixels"], shape=(-1, 3, self._size_px, self._size_px)),),
                instance_count=1,
                is_gpu=False,
                device_id=0,
                parameters={
                    **read_parameters(self._repository / "upscale" / "configs" / "cpu.pbtxt"),
                    "INFERENCE_NUM_THREADS": str(self._n_threads),
                },
                accelerators=(),
                graph_level=0,
            )
        )
        return lambda: session.run(dict(inputs))

    def _encoder(self, batch: int) -> Callable[[], object]:
        pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, self._size_px, self._size_px), dtype=np.uint8)
        if self._engine in (TORCH, TORCH_CUDA):
            return self._torch_encoder(pixels)
        graph = self._graph("image_encoder", {"pixels": pixels})
        if self._engine == ONNX_CUDA:
            return _prepare_cuda(graph)
        if self._engine == OPENVINO_INT8:  # what is not in int8 runs as it does without
            graph = replace(graph, path=graph.path.with_name("model.int8.onnx"))
            return prepare(graph, cast(Engine, float_engine()), self._n_threads)
        return prepare(graph, cast(Engine, self._engine), self._n_threads)

    def _graph(self, model: str, inputs: Mapping[str, np.ndarray]) -> Graph:
        return Graph(path=self._repository / model / "1" / "model.onnx", inputs=inputs, macs=0)

    def _torch_encoder(self, pixels: np.ndarray) -> Callable[[], object]:
        import open_clip

        if self._weights is None:
            raise SystemExit("bare: --weights is needed for PyTorch")
        name, file = self._weights
        model: Any = open_clip.create_model(name, pretrained=str(file)).eval()
        images = torch.from_numpy(pixels).float().div(255)
        if self._engine == TORCH_CUDA:
            model, images = model.cuda().half(), images.half()

        def call() -> object:
            with torch.inference_mode():
                on_device = images.to(next(model.parameters()).device)
                return model.encode_image(on_device, normalize=True).cpu()  # waits for the device

        return call


def read_parameters(configuration: Path) -> dict[str, str]:
    """Return the `parameters` of a config.pbtxt, which stand in a line each."""
    return dict(_PARAMETER.findall(configuration.read_text(encoding="utf-8")))


def _prepare_cuda(graph: Graph) -> Callable[[], object]:
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise SystemExit("bare: onnxruntime has no CUDA here; install onnxruntime-gpu in place of onnxruntime")
    return lambda: session.run(None, dict(graph.inputs))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(100 * (logits - logits.max()))
    return powers / powers.sum()


def answer(bare: Bare, order: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a line of the input asks for."""
    if "stages" in order:
        return bare.stages_ms(float(order["seconds"]))
    if "n_labels" in order:
        return {"seconds": bare.text_s(int(order["n_labels"]))}
    return bare.encode(int(order["batch"]), float(order["seconds"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Load, then answer until the input ends."""
    parser = argparse.ArgumentParser(prog="bare", description="Run the bare engine on orders from standard input.")
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--model", default=MODEL, help="OpenCLIP's name, for PyTorch (%(default)s)")
    parser.add_argument("--weights", type=Path, help="file of a state dict, for PyTorch")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args(argv)
    weights = (arguments.model, arguments.weights) if arguments.weights else None
    bare = Bare(arguments.repository, arguments.engine, weights, arguments.threads)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(bare, json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
