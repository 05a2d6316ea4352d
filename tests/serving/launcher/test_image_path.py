"""The model repository in which one process does what is done to an image."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._triton.image_path import MODEL, build_repository, choose_processes


def read(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())


def tensors(side):
    return [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in side]


@pytest.fixture
def built(repository, tmp_path):
    return build_repository(repository, tmp_path / "models", config_name="cpu")


def test_every_model_of_the_contract_is_still_there(repository, built):
    names = {path.name for path in repository.iterdir()}
    assert {path.name for path in built.iterdir()} == names | {MODEL}
    for name in sorted(names):
        if not (repository / name / "config.pbtxt").is_file():
            continue
        was, now = read(repository / name), read(built / name)
        assert tensors(now.input) == tensors(was.input), name
        assert tensors(now.output) == tensors(was.output), name
        assert now.max_batch_size == was.max_batch_size, name


def test_one_process_stands_for_the_image_path(built):
    model = read(built / MODEL)
    assert all(tensor.optional for tensor in model.input)
    outputs = {tensor.name for tensor in model.output}
    stand_ins = [folder for folder in built.iterdir() if folder.is_dir() and not folder.is_symlink()]
    assert {folder.name for folder in stand_ins} >= {"decode", "upscale", "image_encoder", "similarity", "classify"}
    for folder in stand_ins:
        if folder.name == MODEL:
            continue
        (step,) = read(folder).ensemble_scheduling.step
        assert step.model_name == MODEL
        assert set(step.output_map) <= outputs
        assert set(step.input_map) <= {tensor.name for tensor in model.input}
        assert ("native_image" in step.input_map) == ("native" in folder.name), folder.name


def test_the_rest_are_links_to_the_repository(repository, built):
    for name in ("text_encoder", "embed_text", "manifest.json"):
        assert (built / name).is_symlink()
        assert (built / name).resolve() == (repository / name).resolve()


def test_it_names_the_configurations_of_the_engines(repository, built, tmp_path):
    parameters = read(built / MODEL).parameters
    assert parameters["repository"].string_value == str(repository)
    assert parameters["config_name"].string_value == "cpu"
    plain = build_repository(repository, tmp_path / "plain", config_name=None)
    assert "config_name" not in read(plain / MODEL).parameters


def test_it_is_written_anew_at_each_start(repository, built):
    (built / "old").mkdir()
    (built / "classify" / "config.pbtxt").write_text("damaged", encoding="utf-8")
    build_repository(repository, built, config_name="cpu")
    assert not (built / "old").exists()
    assert read(built / "classify").platform == "ensemble"
    assert (repository / "text_encoder" / "config.pbtxt").is_file(), "what links lead to was deleted"


def test_one_that_is_as_it_should_be_is_not_written_again(repository, built, monkeypatch):
    """A restart must not depend on free space."""

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("write_text", "mkdir", "symlink_to"):
        monkeypatch.setattr(f"pathlib.Path.{name}", fail)
    build_repository(repository, built, config_name="cpu")
    assert read(built / MODEL).name == MODEL
    with pytest.raises(LaunchError, match="cannot be written: No space left on device"):
        build_repository(repository, built, config_name=None)


def test_models_of_a_controller_stand_for_it_too(make_model_repository, tmp_path):
    own = make_model_repository(tmp_path / "own")
    (own / "classify_auto").mkdir()
    text = (own / "classify_detailed" / "config.pbtxt").read_text(encoding="utf-8")
    (own / "classify_auto" / "config.pbtxt").write_text(text.replace("classify_detailed", "classify_auto"))
    (step,) = read(build_repository(own, tmp_path / "m", config_name=None) / "classify_auto").ensemble_scheduling.step
    assert step.model_name == MODEL


def test_what_cannot_be_read_or_written_is_named(make_model_repository, repository, tmp_path):
    own = make_model_repository(tmp_path / "own")
    (own / "classify" / "config.pbtxt").write_text("name: {", encoding="utf-8")
    with pytest.raises(LaunchError, match=r"classify/config\.pbtxt is not a model configuration"):
        build_repository(own, tmp_path / "models", config_name=None)
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"file/models cannot be written"):
        build_repository(repository, tmp_path / "file" / "models", config_name=None)


@pytest.mark.parametrize(
    ("requested", "config_name", "kind", "chosen"),
    [
        ("auto", "cpu", "embedded", "shared"),
        ("auto", None, "embedded", "shared"),
        ("auto", "gpu-onnx", "embedded", "separate"),
        ("auto", None, "path", "separate"),
        ("separate", "cpu", "embedded", "separate"),
        ("shared", "cpu-int8", "embedded", "shared"),
    ],
)
def test_processes_are_shared_where_they_can_be(requested, config_name, kind, chosen):
    assert choose_processes(requested, config_name, triton_kind=kind) == chosen


@pytest.mark.parametrize(("config_name", "kind"), [(None, "docker"), ("gpu-onnx", "embedded")])
def test_where_they_cannot_the_option_is_refused(config_name, kind):
    with pytest.raises(LaunchError, match="needs the embedded Triton and a profile for the CPU"):
        choose_processes("shared", config_name, triton_kind=kind)
