"""The command line `clipsr-batch`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from clipsr.batch._cluster import ClusterError, Workers, open_cluster
from clipsr.batch._models import LocalModels, ModelFacts, Models, Service
from clipsr.batch._output import OutputFolder
from clipsr.batch._partitions import plan_partitions
from clipsr.batch._run import Job, run
from clipsr.cli._connection import connection_options, read_connection
from clipsr.cli._exits import ExitCode, QuietGroup, report, run_group
from clipsr.cli._options import chosen_classify_options, classify_options
from clipsr.cli._streams import configure_stream, open_missing_streams

_TIMEOUT_S = 30.0
_RETRIES = 12  # about half a minute: what a restart of the service takes
_PARTITION_SIZE = 1_000

# \b keeps click from filling the lines into a paragraph.
_EXAMPLES = """\b
Examples:
  clipsr-batch classify photos/ --labels cat,dog --output labelled/ --url localhost:50051
  clipsr-batch classify train.parquet --labels @cifar10 --output labelled/ --repository model_repository
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    open_missing_streams()
    configure_stream(sys.stdout)
    configure_stream(sys.stderr)
    return run_group(cli, arguments, command="clipsr-batch")


@click.group(
    cls=QuietGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="clipsr", prog_name="clipsr-batch")
def cli() -> None:
    """Work on many images on Ray: on this machine, or on a cluster.

    Exit codes: 0 all succeeded, 1 some images failed, 2 wrong usage, 3 the service, the models or Ray cannot be used,
    4 authentication failed, 5 the output cannot be written.
    """


@cli.command(short_help="Classify image files.", epilog=_EXAMPLES)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@classify_options
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for the results, a Parquet file for each partition with a row for each image; after an interruption "
    "the same command resumes.",
)
@click.option(
    "--image-column", metavar="NAME", help="Of Parquet files: holds the image files; image, img, ... if absent."
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run the models of this repository in the workers; without it, the service of --url answers.",
)
@click.option("--profile", metavar="NAME", help="With --repository: how models run, as of clipsr-serve up.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Partitions done at once."
)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cores of a worker; without it, with --repository an equal share of all, otherwise 1.",
)
@click.option(
    "--partition-size",
    type=click.IntRange(min=1),
    default=_PARTITION_SIZE,
    show_default=True,
    metavar="N",
    help="Images that are done, and done again, together.",
)
@click.option("--address", metavar="HOST:PORT", help="Ray cluster to work on, or auto; without it, this machine.")
@click.option("--restart", "is_restarted", is_flag=True, help="Do all images again; replace the results.")
@click.option("--retry-failed", "retries_failed", is_flag=True, help="Do partitions with failed images again.")
@connection_options(timeout_s=_TIMEOUT_S)
def classify(
    source: Path,
    output: Path,
    image_column: str | None,
    repository: Path | None,
    profile: str | None,
    workers: int,
    cores: int | None,
    partition_size: int,
    address: str | None,
    is_restarted: bool,
    retries_failed: bool,
) -> ExitCode:
    """Classify the images of a folder or of Parquet files with the labels you name.

    INPUT is a folder of image files or of Parquet files (searched with its subfolders), or a Parquet file with a column
    of image files. All workers must see INPUT, --output and --repository by the same paths.
    """
    if profile is not None and repository is None:
        raise click.UsageError("--profile goes with --repository.")
    options = chosen_classify_options(return_embedding=False)
    try:
        with open_cluster(address) as n_cores:
            pool = Workers(count=workers, cores=cores or (max(1, n_cores // workers) if repository else 1))
            if pool.count * pool.cores > n_cores:
                raise click.UsageError(
                    f"{pool.count} workers of {pool.cores} cores need more than the {n_cores} of Ray."
                )
            models, facts = _find_models(repository, profile, pool.cores)
            partitions = plan_partitions(source.absolute(), size=partition_size, column=image_column)
            job = Job(models=models, facts=facts, options=options, output=OutputFolder(output.absolute()))
            job.output.begin(job.settings(partitions), is_restarted=is_restarted)
            return run(job, partitions, pool, retries_failed=retries_failed)
    except ClusterError as error:
        report(str(error))
        return ExitCode.UNREACHABLE


def _find_models(repository: Path | None, profile: str | None, cores: int) -> tuple[Models, ModelFacts]:
    """Return where answers come from, and what the model is.

    Raises:
        click.UsageError: the extra that runs a repository is missing.
        ClipsrError: the service or the repository cannot be used.
    """
    if repository is None:
        service = Service(**read_connection(retries=_RETRIES))
        return service, service.describe()
    models = LocalModels(repository=str(repository.absolute()), profile=profile, threads=cores)
    try:
        return models, models.describe()
    except ImportError:
        raise click.UsageError("--repository runs the models here: pip install 'clipsr[local]'.") from None
