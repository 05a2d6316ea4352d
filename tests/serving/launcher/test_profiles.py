"""`clipsr-serve up --profile`: what is chosen for a processor, and what is refused instead of served more slowly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._triton.profiles import PLANS_NAME, require_machine
from clipsr_serving.manifest import Artifact, read_manifest
from clipsr_serving.profiles import INT8_ENCODER, choose_profile, default_profile, read_cpu_flags

BF16 = frozenset({"avx2", "avx512_vnni", "avx512_bf16"})
VNNI = frozenset({"avx2", "avx_vnni"})
PLAIN = frozenset({"avx2"})


@pytest.fixture
def manifest(repository):
    return read_manifest(repository)


@pytest.fixture
def with_int8(manifest):
    manifest.artifacts[INT8_ENCODER] = Artifact(sha256="0", size_bytes=1)
    return manifest


class TestChoice:
    @pytest.mark.parametrize(
        ("cpu_flags", "config_name", "words"),
        [
            (BF16, "cpu-int8", "in int8, as it was exported and this processor has avx512_vnni"),
            (VNNI, "cpu-int8", "this processor has avx_vnni"),
            (frozenset({"amx_bf16"}), "cpu", "in bf16, as this processor has amx_bf16, and this processor has no VNNI"),
            (PLAIN, "cpu", "in fp32, as this processor has no bf16, and this processor has no VNNI for int8"),
        ],
    )
    def test_cpu_takes_the_best_type_of_the_processor(self, repository, with_int8, cpu_flags, config_name, words):
        choice = choose_profile("cpu", repository, with_int8, cpu_flags=cpu_flags)
        assert choice.config_name == config_name
        assert words in choice.message

    @pytest.mark.parametrize(("cpu_flags", "precision"), [(VNNI, "fp32"), (BF16, "bf16")])
    def test_int8_is_never_chosen_where_nobody_exported_it(self, repository, manifest, cpu_flags, precision):
        manifest.artifacts.pop(INT8_ENCODER, None)
        choice = choose_profile("cpu", repository, manifest, cpu_flags=cpu_flags)
        assert choice.config_name == "cpu"
        assert f"image encoder in {precision}, " in choice.message
        assert choice.message.endswith("no int8 encoder was exported")

    def test_bf16_can_be_had_beside_int8(self, repository, with_int8):
        assert choose_profile("cpu-bf16", repository, with_int8, cpu_flags=BF16).config_name == "cpu"

    def test_the_plain_profile_is_config_pbtxt(self, repository, manifest):
        assert choose_profile("cpu-onnx", repository, manifest, cpu_flags=BF16).config_name is None

    @pytest.mark.parametrize(("kind", "name"), [("embedded", "cpu"), ("path", "cpu-onnx"), ("docker", "cpu-onnx")])
    def test_the_default_is_cpu_where_the_openvino_backend_is_ours(self, repository, kind, name):
        assert default_profile(repository, triton_kind=kind) == name

    def test_the_default_is_plain_where_no_model_has_cpu(self, tmp_path):
        (tmp_path / "upscale" / "configs").mkdir(parents=True)
        assert default_profile(tmp_path, triton_kind="embedded") == "cpu-onnx"

    def test_an_unknown_profile_is_refused(self, repository, manifest):
        with pytest.raises(
            LaunchError, match=r"no profile 'gpu'; .* have cpu, cpu-bf16, cpu-int8, cpu-onnx, gpu-onnx, gpu-t"
        ):
            choose_profile("gpu", repository, manifest, cpu_flags=BF16)

    def test_int8_needs_its_graph(self, repository, manifest, with_int8):
        assert choose_profile("cpu-int8", repository, with_int8, cpu_flags=PLAIN).config_name == "cpu-int8"
        del manifest.artifacts[INT8_ENCODER]
        with pytest.raises(LaunchError, match=r"needs .*model\.int8\.onnx; write it by `clipsr-export int8"):
            choose_profile("cpu-int8", repository, manifest, cpu_flags=BF16)

    def test_flags_are_read_from_linux(self, tmp_path):
        page = tmp_path / "cpuinfo"
        page.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nbugs\t\t: none\n", encoding="utf-8")
        assert read_cpu_flags(page) == {"fpu", "avx2", "avx512_bf16"}
        page.write_text("processor\t: 0\nFeatures\t: asimd\n", encoding="utf-8")
        assert read_cpu_flags(page) == frozenset() == read_cpu_flags(tmp_path / "none")


class TestMachine:
    @pytest.fixture
    def smi(self, tmp_path, monkeypatch):
        """Puts an `nvidia-smi` on PATH that lists what the test says."""
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

        def put(text: str, *, code: int = 0) -> None:
            program = tmp_path / "bin" / "nvidia-smi"
            program.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n", encoding="utf-8")
            program.chmod(0o755)

        return put

    @pytest.mark.parametrize("profile", [None, "cpu", "cpu-int8"])
    def test_the_embedded_triton_runs_all_for_processors(self, repository, manifest, profile):
        require_machine(profile, repository, manifest, triton_kind="embedded")

    @pytest.mark.parametrize("kind", ["path", "docker"])
    @pytest.mark.parametrize("profile", ["cpu", "cpu-int8"])
    def test_openvino_is_refused_in_nvidias_triton(self, repository, manifest, profile, kind):
        with pytest.raises(LaunchError, match=rf"{profile} needs the embedded Triton, .*\. Use --profile cpu-onnx, or"):
            require_machine(profile, repository, manifest, triton_kind=kind)
        require_machine(None, repository, manifest, triton_kind=kind)

    def test_a_gpu_must_be_there(self, repository, manifest, smi):
        with pytest.raises(LaunchError, match=r"gpu-onnx needs an NVIDIA GPU, .* use --profile cpu"):
            require_machine("gpu-onnx", repository, manifest, triton_kind="embedded")
        smi("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", code=9)
        with pytest.raises(LaunchError, match="needs an NVIDIA GPU"):
            require_machine("gpu-onnx", repository, manifest, triton_kind="path")
        smi("GPU 0: NVIDIA H200 (UUID: GPU-0)")
        require_machine("gpu-onnx", repository, manifest, triton_kind="embedded")

    def test_the_embedded_triton_runs_no_plans(self, repository, manifest, smi):
        smi("GPU 0: NVIDIA H200 (UUID: GPU-0)")
        with pytest.raises(LaunchError, match=r"no TensorRT backend; .* --profile gpu-onnx"):
            require_machine("gpu-tensorrt", repository, manifest, triton_kind="embedded")

    def write_plans(self, folder: Path, manifest, **changes: object) -> None:
        graph = "image_encoder/1/model.onnx"
        plan = {"file": "image_encoder/1/a.plan", "bytes": 3, "onnx_sha256": manifest.artifacts[graph].sha256}
        (folder / "image_encoder" / "1").mkdir(parents=True, exist_ok=True)
        (folder / "image_encoder" / "1" / "a.plan").write_bytes(b"abc")
        (folder / "tensorrt.json").write_text(json.dumps({"plans": {graph: plan | changes}}), encoding="utf-8")

    def test_plans_must_be_there_and_of_these_graphs(self, tmp_path, manifest, smi):
        smi("GPU 0: NVIDIA H200 (UUID: GPU-0)")

        def require() -> None:
            require_machine("gpu-tensorrt", tmp_path, manifest, triton_kind="path")

        with pytest.raises(LaunchError, match=r"no TensorRT plans .*; run `clipsr-export tensorrt --repository"):
            require()
        self.write_plans(tmp_path, manifest)
        require()
        self.write_plans(tmp_path, manifest, onnx_sha256="another")
        with pytest.raises(LaunchError, match=r"a\.plan was built from another image_encoder/1/model\.onnx"):
            require()
        self.write_plans(tmp_path, manifest, bytes=4)
        with pytest.raises(LaunchError, match=r"a\.plan is missing or not what .*tensorrt\.json describes"):
            require()
        (tmp_path / "tensorrt.json").write_text("[]", encoding="utf-8")
        with pytest.raises(LaunchError, match="There are no TensorRT plans"):
            require()


def test_the_names_of_files_are_those_that_export_writes():
    """Serving and export share no code, so the names are held together here."""
    from clipsr_export._graphs import int8
    from clipsr_export._tensorrt import plans

    assert f"image_encoder/1/{int8.FILE_NAME}" == INT8_ENCODER
    assert PLANS_NAME == plans.PLANS_NAME
