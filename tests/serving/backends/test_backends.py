"""The Python-based backends: the same behaviour on both runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_serving.backends import onnxruntime as onnxruntime_backend
from clipsr_serving.backends import openvino as openvino_backend
from clipsr_serving.backends import read_model_spec, run_batched
from clipsr_serving.backends.onnxruntime import OnnxRuntimeSession
from clipsr_serving.backends.openvino import OpenVinoSession
from clipsr_serving.cores import count_cores
from clipsr_serving.errors import ModelLoadError

WHICH_TELEMETRY = "import openvino.tools.ovc.telemetry_utils as used; print(used.tm.__name__)"
SESSIONS = {"onnxruntime": OnnxRuntimeSession, "openvino": OpenVinoSession}


def read_config(repository, model, backend) -> dict:
    folder = repository / model
    path = folder / "config.pbtxt" if backend == "onnxruntime" else folder / "configs" / "cpu.pbtxt"
    config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


@pytest.fixture(params=SESSIONS)
def backend(request):
    return request.param


@pytest.fixture
def open_session(repository, make_args, backend):
    """Opens a model of the random repository, its config changed as the test likes."""

    def open_it(model, change=lambda config: None, *, root=repository, kind="CPU"):
        config = read_config(repository, model, backend)
        change(config)
        args = make_args(model, config=config, root=root) | {"model_instance_kind": kind}
        return SESSIONS[backend](read_model_spec(args))

    return open_it


class TestRun:
    def test_all_graphs_run_with_any_batch(self, open_session, sizes):
        rng = np.random.default_rng(0)
        upscale, encoder, text = (open_session(model) for model in ("upscale", "image_encoder", "text_encoder"))
        for batch in (1, 5):
            for side in sizes.canvas_sizes_px:
                canvas = rng.integers(0, 256, (batch, 3, side, side), np.uint8)
                pixels = upscale.run({"canvas": canvas, "box": np.zeros((batch, 4), np.float32)})["pixels"]
                assert (pixels.shape, pixels.dtype) == ((batch, 3, sizes.R, sizes.R), np.uint8)
            embedding = encoder.run({"pixels": pixels})["image_embedding"]
            np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-2)
            tokens = rng.integers(0, 258, (batch, sizes.L))
            assert text.run({"tokens": tokens})["text_embedding"].shape == (batch, sizes.D)

    def test_a_later_run_leaves_earlier_outputs_alone(self, open_session, sizes):
        text = open_session("text_encoder")
        first = text.run({"tokens": np.full((2, sizes.L), 3)})["text_embedding"]
        kept = first.copy()
        text.run({"tokens": np.full((2, sizes.L), 9)})
        np.testing.assert_array_equal(first, kept)

    def test_both_runtimes_agree(self, repository, make_args, sizes):
        tokens = np.random.default_rng(1).integers(0, 258, (4, sizes.L))
        outputs = []
        for backend, session in SESSIONS.items():
            args = make_args("text_encoder", config=read_config(repository, "text_encoder", backend))
            outputs.append(session(read_model_spec(args)).run({"tokens": tokens})["text_embedding"])
        # 1e-5: float32 sums of 32 products in different orders.
        np.testing.assert_allclose(*outputs, atol=1e-5)


def set_dims(config, side, dims):
    config[side][0]["dims"] = dims


class TestLoad:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda config: config["input"][0].update(name="image"), "declares the input 'image', but the graph"),
            (lambda config: config["output"][0].update(name="out"), "declares the output 'out', but the graph"),
            (lambda config: config["input"][0].update(data_type="TYPE_FP32"), "is FP32 in config.pbtxt and UINT8"),
            (lambda config: set_dims(config, "output", [128]), r"is \[-1, 128\] in config.pbtxt .* \[-1, 256\]"),
            (lambda config: set_dims(config, "input", [3, 64]), r"'pixels' is \[-1, 3, 64\]"),
            (lambda config: config.update(max_batch_size=0), r"is \[3, 64, 64\] in config.pbtxt"),
        ],
    )
    def test_a_config_that_does_not_fit_the_graph(self, open_session, change, message):
        with pytest.raises(ModelLoadError, match=message):
            open_session("image_encoder", change)

    def test_an_undeclared_input(self, open_session):
        with pytest.raises(ModelLoadError, match=r"needs the inputs \['box'\]"):
            open_session("upscale", lambda config: config["input"].pop(1))

    def test_a_missing_file(self, open_session, tmp_path):
        (tmp_path / "image_encoder" / "1").mkdir(parents=True)
        with pytest.raises(ModelLoadError, match=r"model\.onnx is missing; run `make export`"):
            open_session("image_encoder", root=tmp_path)

    def test_a_damaged_file(self, open_session, tmp_path):
        folder = tmp_path / "image_encoder" / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"not a graph")
        with pytest.raises(ModelLoadError, match="cannot load"):
            open_session("image_encoder", root=tmp_path)

    def test_a_gpu_that_the_runtime_cannot_use(self, open_session):
        with pytest.raises(ModelLoadError, match=r"CUDAExecutionProvider|KIND_CPU"):
            open_session("image_encoder", kind="GPU")


class TestOnnxRuntimeParameters:
    @pytest.fixture
    def backend(self):
        return "onnxruntime"

    def options(self, open_session, **parameters):
        strings = {key.replace("__", "."): {"string_value": value} for key, value in parameters.items()}
        session = open_session("text_encoder", lambda config: config.update(parameters=strings))
        return session._session.get_session_options()

    def test_threads(self, open_session):
        options = self.options(open_session, intra_op_thread_count="3", inter_op_thread_count="2")
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)

    def test_threads_default_to_a_share_of_the_cores(self, open_session):
        assert self.options(open_session).intra_op_num_threads == count_cores()
        shared = open_session("text_encoder", lambda config: config["instance_group"][0].update(count=64))
        assert shared._session.get_session_options().intra_op_num_threads == 1

    def test_memory_and_mode(self, open_session):
        import onnxruntime as ort

        options = self.options(open_session, enable_mem_arena="0", enable_mem_pattern="0", execution_mode="1")
        assert not options.enable_cpu_mem_arena
        assert not options.enable_mem_pattern
        assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL

    def test_spinning_is_off_unless_asked_for(self, open_session):
        key = "session.intra_op.allow_spinning"
        assert self.options(open_session).get_session_config_entry(key) == "0"
        spinning = self.options(open_session, session__intra_op__allow_spinning="1")
        assert spinning.get_session_config_entry(key) == "1"

    def test_what_only_nvidias_backend_needs_is_known(self, open_session, caplog):
        self.options(open_session, cudnn_conv_algo_search="1")
        assert "does not know" not in caplog.text
        self.options(open_session, cudnn_conv_search="1")
        assert "does not know the parameters ['cudnn_conv_search']" in caplog.text

    def test_graph_level(self, open_session):
        import onnxruntime as ort

        session = open_session("text_encoder", lambda config: config.update(optimization={"graph": {"level": 2}}))
        level = session._session.get_session_options().graph_optimization_level
        assert level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        with pytest.raises(ModelLoadError, match="level must be"):
            open_session("text_encoder", lambda config: config.update(optimization={"graph": {"level": 7}}))

    def test_a_number_that_is_none(self, open_session):
        with pytest.raises(ModelLoadError, match=r"'intra_op_thread_count' .* must be an integer, not 'many'"):
            self.options(open_session, intra_op_thread_count="many")

    @pytest.fixture
    def gpu_wheel(self, monkeypatch):
        """An onnxruntime that offers a GPU's providers and leaves them out, as the real one does without CUDA."""
        offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        asked = []

        class Session(onnxruntime_backend.ort.InferenceSession):
            def __init__(self, path, *, sess_options, providers):
                asked.append(dict(providers))
                super().__init__(path, sess_options=sess_options, providers=["CPUExecutionProvider"])

        monkeypatch.setattr(onnxruntime_backend.ort, "get_available_providers", lambda: offered)
        monkeypatch.setattr(onnxruntime_backend.ort, "preload_dlls", lambda: None)
        monkeypatch.setattr(onnxruntime_backend.ort, "InferenceSession", Session)
        return asked

    def test_a_provider_that_onnxruntime_leaves_out_is_an_error(self, open_session, gpu_wheel):
        with pytest.raises(ModelLoadError, match=r"CUDAExecutionProvider cannot be used here, .* run it on CPUExec"):
            open_session("image_encoder", kind="GPU")

    def test_options_of_providers_reach_onnxruntime_in_its_own_words(self, open_session, gpu_wheel):
        accelerators = [
            {
                "name": "tensorrt",
                "parameters": {
                    "precision_mode": "FP16",
                    "max_workspace_size_bytes": "1024",
                    "trt_engine_cache_enable": "true",
                    "trt_engine_cache_prefix": "text_encoder",
                },
            },
            {"name": "cuda", "parameters": {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}},
        ]
        optimization = {"execution_accelerators": {"gpu_execution_accelerator": accelerators}}
        with pytest.raises(ModelLoadError, match="TensorrtExecutionProvider, CUDAExecutionProvider cannot be used"):
            open_session("text_encoder", lambda config: config.update(optimization=optimization), kind="GPU")
        (providers,) = gpu_wheel
        assert list(providers) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        assert providers["TensorrtExecutionProvider"] == {
            "device_id": "0",
            "trt_fp16_enable": "True",
            "trt_max_workspace_size": "1024",
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_prefix": "text_encoder",
        }
        assert providers["CUDAExecutionProvider"] == {
            "device_id": "0",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
        }

    def test_the_documented_tensorrt_provider_is_understood(self, open_session, gpu_wheel):
        page = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text(encoding="utf-8")
        block = page.split("<!-- tensorrt provider -->\n```\n")[1].split("```")[0]
        parsed = text_format.Parse(block, ModelConfig())
        optimization = json_format.MessageToDict(parsed, preserving_proto_field_name=True)["optimization"]
        with pytest.raises(ModelLoadError, match="cannot be used here"):
            open_session("image_encoder", lambda config: config.update(optimization=optimization), kind="GPU")
        (providers,) = gpu_wheel
        options = providers["TensorrtExecutionProvider"]
        assert options["trt_fp16_enable"] == "True"
        assert options["trt_engine_cache_prefix"] == "image_encoder"
        # Words of NVIDIA's backend alone would be refused by onnxruntime.
        assert all(key == "device_id" or key.startswith("trt_") for key in options)

    def test_a_precision_that_the_tensorrt_provider_lacks(self, open_session, gpu_wheel):
        accelerator = {"name": "tensorrt", "parameters": {"precision_mode": "FP4"}}
        optimization = {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}
        with pytest.raises(ModelLoadError, match="precision_mode must be FP32 or FP16, not 'FP4'"):
            open_session("text_encoder", lambda config: config.update(optimization=optimization))

    @pytest.mark.parametrize(("name", "message"), [("tensorrt", "Tensorrt"), ("nonsense", "unknown execution acc")])
    def test_accelerators_that_are_not_there(self, open_session, name, message):
        accelerators = {"execution_accelerators": {"gpu_execution_accelerator": [{"name": name}]}}
        with pytest.raises(ModelLoadError, match=message):
            open_session("text_encoder", lambda config: config.update(optimization=accelerators))

    def test_unknown_parameters_are_named_in_the_log(self, open_session, caplog):
        self.options(open_session, intra_op_threads="1")
        assert "does not know the parameters ['intra_op_threads']" in caplog.text


class TestOpenVinoParameters:
    @pytest.fixture
    def backend(self):
        return "openvino"

    def open(self, open_session, **parameters):
        strings = {key: {"string_value": value} for key, value in parameters.items()}
        session = open_session("text_encoder", lambda config: config.update(parameters=strings))
        return session._alone._requests[0][1].get_compiled_model()

    def test_threads_and_streams(self, open_session):
        compiled = self.open(open_session, INFERENCE_NUM_THREADS="1", NUM_STREAMS="1", PERFORMANCE_HINT="LATENCY")
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert compiled.get_property("NUM_STREAMS") == 1

    def test_precision_is_f32_unless_asked_for(self, open_session):
        assert self.open(open_session).get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"

    @pytest.mark.parametrize("parameters", [{"HINT_BF16": "YES"}, {"INFERENCE_PRECISION_HINT": "bf16"}])
    @pytest.mark.parametrize(("capabilities", "expected"), [(["FP32", "BF16"], "bf16"), (["FP32"], "f32")])
    def test_bf16_only_where_the_cpu_has_it(self, repository, make_args, parameters, capabilities, expected):
        config = read_config(repository, "text_encoder", "openvino")
        config["parameters"] = {key: {"string_value": value} for key, value in parameters.items()}
        spec = read_model_spec(make_args("text_encoder", config=config))
        assert openvino_backend._make_properties(spec, capabilities)["INFERENCE_PRECISION_HINT"] == expected

    def open_upscale(self, open_session, **parameters):
        strings = {key: {"string_value": value} for key, value in parameters.items()}
        return open_session("upscale", lambda config: config.update(parameters=strings))

    @pytest.fixture
    def capabilities(self, request, monkeypatch):
        """What the processor is said to have, whatever it has."""
        get_property = openvino_backend.ov.Core.get_property
        monkeypatch.setattr(
            openvino_backend.ov.Core,
            "get_property",
            lambda core, device, key: (
                request.param if key == "OPTIMIZATION_CAPABILITIES" else get_property(core, device, key)
            ),
        )
        return request.param

    @pytest.mark.parametrize("names", ["features", "features,detail", "features,nothing"])
    @pytest.mark.parametrize("capabilities", [["FP32", "BF16"], ["FP32"]], indirect=True)
    def test_bf16_up_to_a_tensor_changes_nothing_but_the_rounding(self, open_session, capabilities, names):
        cut = self.open_upscale(open_session, BF16_UP_TO=names)
        whole = self.open_upscale(open_session)
        steps = [step for step, _ in cut._alone._requests]
        if "BF16" not in capabilities:
            assert [step.gives for step in steps] == [()]
        elif "detail" not in names:
            assert [(step.gives, step.is_bf16) for step in steps] == [(("features",), True), ((), False)]
        else:
            coordinates, detail, rest = steps
            assert (coordinates.is_bf16, detail.is_bf16, rest.is_bf16) == (False, True, False)
            assert detail.gives == ("detail",)
            assert set(detail.takes) == {"canvas", *coordinates.gives}
            assert rest.takes == ("detail",)
        rng = np.random.default_rng(0)
        for batch, side in ((1, 32), (5, 64), (2, 32)):
            canvas = rng.integers(0, 256, (batch, 3, side, side), np.uint8)
            inputs = {"canvas": canvas, "box": rng.uniform(0, 9, (batch, 4)).astype(np.float32)}
            difference = cut.run(inputs)["pixels"].astype(int) - whole.run(inputs)["pixels"]
            assert np.abs(difference).max() <= 1

    @pytest.mark.parametrize(
        ("parts", "options", "sizes"),
        [(1, {}, [2, 3, 3]), (2, {}, [1, 1, 1, 1, 2, 2]), (1, {"ROWS_AT_ONCE": "2"}, [2, 2, 2, 2])],
    )
    def test_large_batches_run_in_pieces(self, open_session, monkeypatch, parts, options, sizes):
        rng = np.random.default_rng(0)
        inputs = {"canvas": rng.integers(0, 256, (8, 3, 32, 32), np.uint8), "box": np.ones((8, 4), np.float32)}
        expected = self.open_upscale(open_session).run(inputs)["pixels"]
        session = self.open_upscale(
            open_session,
            PIXELS_AT_ONCE=str(3 * (32**2 + expected.shape[-1] ** 2) + 1),
            PARTS_AT_ONCE=str(parts),
            INFERENCE_NUM_THREADS="2",
            **options,
        )
        seen = []
        run = openvino_backend._Runner.run
        monkeypatch.setattr(
            openvino_backend._Runner,
            "run",
            lambda runner, inputs, names: seen.append(len(inputs["box"])) or run(runner, inputs, names),
        )
        pixels = session.run(inputs)["pixels"]
        assert sorted(seen) == sizes
        np.testing.assert_array_equal(pixels, expected)

    def test_pieces_are_equal_and_as_many_for_each(self):
        cut = openvino_backend._cut_rows
        assert cut(8, 1, None) == [(0, 8)]
        assert cut(8, 2, None) == [(0, 4), (4, 8)]
        assert cut(9, 2, 8) == [(0, 2), (2, 4), (4, 6), (6, 9)]
        assert cut(2, 2, 1) == [(0, 1), (1, 2)], "a row each, even if that is more than may run at once"
        assert cut(3, 2, 2) == [(0, 1), (1, 2), (2, 3)]
        assert cut(1, 1, 8) == [(0, 1)]

    @pytest.mark.parametrize("cut", [{}, {"BF16_UP_TO": "features,detail"}])
    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_parts_side_by_side_give_what_one_run_gives(self, open_session, threads, cut):
        side_by_side = self.open_upscale(open_session, PARTS_AT_ONCE="2", INFERENCE_NUM_THREADS=str(threads), **cut)
        whole = self.open_upscale(open_session, **cut)
        assert len(side_by_side._side_by_side) == (2 if threads > 1 else 0)
        rng = np.random.default_rng(0)
        for rows, side in ((1, 32), (2, 32), (3, 64), (8, 32), (5, 32)):
            canvas = rng.integers(0, 256, (rows, 3, side, side), np.uint8)
            inputs = {"canvas": canvas, "box": rng.uniform(0, 9, (rows, 4)).astype(np.float32)}
            pixels = side_by_side.run(inputs)["pixels"]
            side_by_side.run({"canvas": 255 - canvas, "box": inputs["box"]})  # outputs are not overwritten
            # Of one row, of several: another order of sums where features are in bf16.
            np.testing.assert_allclose(pixels.astype(int), whole.run(inputs)["pixels"], atol=1 if cut else 0)

    def test_a_part_that_fails_fails_the_batch_and_the_next_one_runs(self, open_session):
        session = self.open_upscale(open_session, PARTS_AT_ONCE="2", INFERENCE_NUM_THREADS="2")
        inputs = {"canvas": np.zeros((4, 3, 32, 32), np.uint8), "box": np.ones((4, 4), np.float32)}
        with pytest.raises(RuntimeError):
            session.run(inputs | {"canvas": np.zeros((4, 1, 32, 32), np.uint8)})
        assert session.run(inputs)["pixels"].shape[0] == 4

    @pytest.mark.usefixtures("capabilities")
    @pytest.mark.parametrize("capabilities", [["FP32", "BF16"]], indirect=True)
    def test_bf16_up_to_a_tensor_that_is_not_there(self, open_session):
        with pytest.raises(ModelLoadError, match=r"'latents', which .*model\.onnx does not have; run `make export`"):
            self.open_upscale(open_session, BF16_UP_TO="latents")

    def test_a_precision_that_is_none(self, open_session):
        with pytest.raises(ModelLoadError, match="must be f32 or bf16"):
            self.open(open_session, INFERENCE_PRECISION_HINT="int4")

    def test_a_property_that_openvino_refuses(self, open_session):
        with pytest.raises(ModelLoadError, match="openvino cannot load"):
            self.open(open_session, PERFORMANCE_HINT="FASTEST")


def double(tensors):
    """Twice the sum over all axes but the first, and a copy of the input."""
    return {"y": 2 * tensors["x"].reshape(len(tensors["x"]), -1).sum(1), "x": tensors["x"].copy()}


class TestBatching:
    @settings(max_examples=60)
    @given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([2, 3])), min_size=1, max_size=8))
    def test_answers_are_those_of_single_runs(self, shapes):
        rng = np.random.default_rng(0)
        requests = [{"x": rng.integers(0, 9, (rows, side, side))} for rows, side in shapes]
        calls = []

        def run(tensors):
            calls.append(tensors["x"].shape)
            return double(tensors)

        answers = run_batched(requests, run, batches=True)
        for answer, request in zip(answers, requests, strict=True):
            for name, expected in double(request).items():
                np.testing.assert_array_equal(answer[name], expected)
        assert len(calls) == len({side for _, side in shapes}), "one run a shape"

    def test_models_without_a_batch_run_one_by_one(self):
        answers = run_batched([{"x": np.ones((2, 2))}] * 3, double, batches=False)
        assert [answer["y"].tolist() for answer in answers] == [[4, 4]] * 3

    def test_the_one_at_fault_fails_alone(self):
        def run(tensors):
            if (tensors["x"] < 0).any():
                raise RuntimeError("negative")
            return double(tensors)

        answers = run_batched([{"x": np.full((1, 1), value)} for value in (1, -1, 2)], run, batches=True)
        assert [type(answer).__name__ for answer in answers] == ["dict", "RuntimeError", "dict"]

    def test_outputs_without_the_batch_are_an_error(self):
        answers = run_batched([{"x": np.ones((1, 1))}] * 2, lambda tensors: {"y": np.ones(1)}, batches=True)
        # Alone, one row for one row is right; together it was not.
        assert all(answer["y"].shape == (1,) for answer in answers)


class TestTritonFace:
    @pytest.fixture
    def model(self, triton, repository, make_args, backend):
        from clipsr_serving.backends._triton import SessionModel

        model = type("TritonPythonModel", (SessionModel,), {"open_session": SESSIONS[backend]})()
        model.initialize(make_args("text_encoder", config=read_config(repository, "text_encoder", backend)))
        return model

    def test_answers_a_batch_of_requests(self, model, triton, sizes):
        requests = [
            {"tokens": triton.Tensor("tokens", np.full((rows, sizes.L), rows)).as_numpy()} for rows in (1, 2, 1)
        ]
        shapes = [response.outputs["text_embedding"].shape for response in model.execute(requests)]
        assert shapes == [(1, sizes.D), (2, sizes.D), (1, sizes.D)]

    def test_a_failing_request_names_the_model(self, model, sizes):
        good, bad = np.zeros((1, sizes.L), np.int64), np.full((1, sizes.L), 10_000)
        responses = model.execute([{"tokens": good}, {"tokens": bad}])
        assert not responses[0].has_error()
        if responses[1].has_error():  # openvino reads past its table instead of refusing
            assert "model 'text_encoder'" in responses[1].error().message()


def test_the_default_file_name_can_be_changed(repository, make_args):
    config = read_config(repository, "image_encoder", "onnxruntime") | {"default_model_filename": "other.onnx"}
    with pytest.raises(ModelLoadError, match=r"other\.onnx is missing"):
        read_model_spec(make_args("image_encoder", config=json.loads(json.dumps(config))))


@pytest.mark.parametrize(
    ("first", "used"),
    [
        ("import openvino", "openvino_telemetry"),  # the check can fail
        ("import clipsr_serving.backends.openvino", "openvino.tools.ovc.telemetry_stub"),
        *(
            pytest.param(f"import {module}", "openvino.tools.ovc.telemetry_stub", marks=pytest.mark.slow)
            for module in ("clipsr_export._graphs.int8", "benchmarks.liif.graphs")
        ),
    ],
)
def test_openvino_reports_nothing_over_the_internet(first, used):
    environment = {**os.environ, "CI": "true"}  # there it reports nothing, so that this test doesn't
    command = [sys.executable, "-c", f"{first}; {WHICH_TELEMETRY}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"{used}\n"


@pytest.mark.parametrize(
    "module",
    [
        "clipsr_serving.backends.onnxruntime",
        *(
            pytest.param(module, marks=pytest.mark.slow)  # these import torch
            for module in ("clipsr_export.cli", "clipsr_training.evaluation._backends.onnx", "benchmarks.liif.graphs")
        ),
    ],
)
def test_onnxruntime_keeps_nothing_to_report(module, tmp_path):
    """It collects in the home folder, from its import on, what it sends."""
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = {**inherited, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    code = f"import {module}, sys; assert 'onnxruntime' in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if "Microsoft" in path.name or path.suffix == ".db"] == []
