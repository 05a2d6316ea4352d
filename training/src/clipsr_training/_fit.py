"""How every training run is started, logged, saved and resumed."""

from __future__ import annotations

import json
import logging
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from clipsr_training._files import lock_folder, make_output_folder, replacing, to_json, writing
from clipsr_training._identity import first_difference
from clipsr_training._pickles import load_pickle
from clipsr_training._precision import default_precision

LAST_CHECKPOINT = "last.ckpt"
_SETTINGS_KEY = "clipsr_settings"


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Where and how a run is carried out; none of it changes what the run computes, but for the seed and precision.

    Attributes:
        output: folder for checkpoints, logs and final weights; made if missing.
        resume: continue from `output/last.ckpt`.
        seed: of weights, data order and augmentation.
        precision: Lightning's precision string; by default bf16 where the machine multiplies it, else fp32.
        devices: number of devices of each machine, or "auto".
        nodes: machines; on each of several, torchrun runs the same command.
        n_workers: data loader processes.
    """

    output: Path
    resume: bool = False
    seed: int = 0
    precision: str = field(default_factory=default_precision)
    devices: str = "auto"
    nodes: int = 1
    n_workers: int = 1

    def seed_everything(self) -> None:
        """Seed Python, numpy and torch, workers included."""
        lightning.seed_everything(self.seed, workers=True, verbose=False)

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint that `resume` continues from."""
        return self.output / LAST_CHECKPOINT


class DivergedError(ValueError):
    """Training reached numbers that are not finite; no step can lead back from them."""


class StopWhenDiverged(Callback):
    """Stops a run at the first loss, or before the first checkpoint, that is not finite, on all devices together."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at a loss before it changes any weight."""
        self._require(trainer, f"the loss is {loss.item()}", is_finite=bool(loss.isfinite()))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights; Lightning saves its checkpoint after all other callbacks."""
        values = [value for value in pl_module.state_dict().values() if value.is_floating_point()]
        self._require(trainer, "weights are not finite", is_finite=all(bool(v.isfinite().all()) for v in values))

    def _require(self, trainer: Trainer, found: str, *, is_finite: bool) -> None:
        if trainer.strategy.reduce_boolean_decision(is_finite, all=True):
            return
        last = Path(trainer.default_root_dir) / LAST_CHECKPOINT
        kept = f"; {last} holds the weights of an earlier step" if last.is_file() else ""
        raise DivergedError(
            f"training diverged at step {trainer.global_step + 1}: {found}{kept}; train with lower learning rates"
        )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint in one step, so that a run killed while saving still has the one before.

    Lightning's own saving goes through the system's temporary folder and copies from there where that is another file
    system; a kill during the copy leaves half a file and nothing to resume from.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write beside the target, then rename."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(target) as file, writing(target):
                torch.save(checkpoint, file.name)
        except RuntimeError as error:  # PyTorch's writer knows no OSError
            raise OSError(f"cannot write {target}: the disk is full, or the file too large") from error


class StoreSettings(Callback):
    """Keeps in every checkpoint what its run depends on."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the settings."""
        checkpoint[_SETTINGS_KEY] = to_json(self.settings)


@contextmanager
def open_run(options: FitOptions) -> Iterator[None]:
    """Make the output folder of a run and keep others out of it, before hours are spent on images.

    Raises:
        FileNotFoundError: `resume` is set and there is no checkpoint to continue from.
        FileExistsError: `resume` is not set and the folder holds a run, or another run is in it.
        ValueError: a device or a precision can't be used, or the checkpoint to continue from is damaged.
        OSError: the folder can't be written into.
    """
    last = options.last_checkpoint
    if rank_zero_only.rank != 0:  # of several devices' processes, one answers for all
        yield
        return
    if options.resume and not last.is_file():
        raise FileNotFoundError(f"nothing to resume: {last} does not exist")
    if not options.resume and last.exists():
        raise FileExistsError(
            f"{options.output} holds a run already: continue it with --resume, or choose another folder"
        )
    if options.resume:
        _read_settings(last)
    with warnings.catch_warnings():
        _silence_lightning()
        _require_trainer(options)
    make_output_folder(options.output)
    lock = lock_folder(options.output)
    try:
        yield
    finally:
        os.close(lock)


def of_all_devices(module: LightningModule, features: Tensor) -> Tensor:
    """Join [n, ...] of each device to [N * n, ...], in the order of the devices.

    Every device computes the whole loss, so gradients come back N-fold to where features were computed; averaging
    over the devices then gives those of one device with the whole batch.
    """
    if module.trainer.world_size == 1:
        return features
    return cast("Tensor", module.all_gather(features, sync_grads=features.requires_grad)).flatten(0, 1)


def deal_out(module: LightningModule, dataset: Dataset[Any]) -> DistributedSampler[Any]:
    """Return a sampler that deals a dataset out to the devices in its order, so that a step sees what one device would.

    Lightning's own shuffles.
    """
    trainer = module.trainer
    return DistributedSampler(dataset, num_replicas=trainer.world_size, rank=trainer.global_rank, shuffle=False)


def fit(
    module: LightningModule,
    options: FitOptions,
    *,
    settings: Mapping[str, Any],
    max_epochs: int,
    accumulate: int = 1,
) -> None:
    """Run training with progress bar, TensorBoard logs and a checkpoint after every epoch.

    Args:
        module: what to train.
        options: where and how.
        settings: what the weights depend on beside `options`; a run is resumed with equal ones only.
        max_epochs: when to stop.
        accumulate: batches whose gradients are added before a step.

    Raises:
        DivergedError: the loss is not finite; the checkpoint before is kept.
        ValueError: a device or a precision can't be used, or the checkpoint to resume from is damaged, or of a run with
            other settings.
        OSError: a checkpoint can't be written.
    """
    with warnings.catch_warnings():
        _silence_lightning()
        trainer = _require_trainer(options, max_epochs, accumulate)
        run = {"seed": options.seed, "precision": options.precision, "devices": trainer.world_size}
        own = json.loads(to_json({**settings, **run}))
        if options.resume:
            _require_same_run(options.last_checkpoint, own)
        trainer.callbacks.insert(0, StoreSettings(own))  # pyright: ignore[reportAttributeAccessIssue]
        _run(trainer, module, options)


def _require_same_run(last: Path, settings: Mapping[str, Any]) -> None:
    """Check that a checkpoint is whole and of a run with these settings."""
    if (difference := first_difference(_read_settings(last), settings)) is not None:
        raise ValueError(f"{last} can't be resumed: it is of another run, {difference}; choose another --output")


def _read_settings(last: Path) -> dict[str, Any]:
    """Return what the run of a checkpoint depends on."""
    try:
        stored = load_pickle(last, is_mapped=True)
    except ValueError as error:
        raise ValueError(f"{last} can't be resumed: {error}") from error
    if not isinstance(stored, Mapping) or _SETTINGS_KEY not in stored:
        raise ValueError(f"{last} can't be resumed: another program wrote it; choose another --output")
    return json.loads(stored[_SETTINGS_KEY])


def _require_trainer(options: FitOptions, max_epochs: int = 1, accumulate: int = 1) -> Trainer:
    """Return a trainer; ValueError in one line where Lightning can't use the devices or the precision."""
    try:
        return _make_trainer(options, max_epochs, accumulate)
    except (MisconfigurationException, ValueError) as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error


def _make_trainer(options: FitOptions, max_epochs: int, accumulate: int) -> Trainer:
    if options.nodes > 1 and not TorchElasticEnvironment.detect():
        # Lightning would wait for the others for half an hour.
        raise ValueError(f"{options.nodes} machines need torchrun on each of them, which says where the others are")
    return Trainer(
        max_epochs=max_epochs,
        accumulate_grad_batches=accumulate,
        precision=options.precision,  # pyright: ignore[reportArgumentType] (Lightning checks the string)
        accelerator="auto",
        devices=options.devices,
        num_nodes=options.nodes,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=options.output,
        logger=TensorBoardLogger(options.output, name="", version="logs"),
        callbacks=[
            StopWhenDiverged(),
            ModelCheckpoint(
                options.output, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
            ),
            LearningRateMonitor(),
        ],
        log_every_n_steps=20,
        reload_dataloaders_every_n_epochs=1,
        # Of validation; training data have samplers of their own, as Lightning's would reorder them.
        use_distributed_sampler=True,
        enable_model_summary=False,
    )


def _run(trainer: Trainer, module: LightningModule, options: FitOptions) -> None:
    last = options.last_checkpoint
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=last if options.resume else None)
    except SystemExit:
        # Lightning answers Ctrl-C by ignoring the next one for good and leaving the process.
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
    if trainer.interrupted:
        raise KeyboardInterrupt(f"stopped; continue with --resume (checkpoint: {last})")


def _silence_lightning() -> None:
    """Hide what Lightning says that no user can act on; everything else it reports stays."""
    # Its advertisements are log lines of level INFO, beside "GPU available".
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    # The logs share the output folder, so it is never empty.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Lightning's own use of a PyTorch function.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # Our data sets hold decoded arrays; more workers than asked for would each hold a copy.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Frozen towers stay in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
    # Sources of few captions have no validation images; a warning of ours said so.
    warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero")
    # Short runs log their last values all the same.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
