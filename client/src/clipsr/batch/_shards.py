"""Images in WebDataset shards: tar archives whose members are files of samples."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import click

from clipsr._formats import IMAGE_ENDINGS
from clipsr._images import describe_unreadable
from clipsr.batch._models import Image
from clipsr.batch._storage import storage_of
from clipsr.cli._inputs import describe_too_large, is_in_sight


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An image file in an archive.

    Attributes:
        name: its path there.
        offset: where its content begins in the archive, in bytes.
        size: of its content, in bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Members:
    """Image files of one archive, named by the archive's path and theirs, such as "000.tar#cats/17.jpg".

    Attributes:
        path: of the archive.
        name: what the output calls it.
        members: the images, in the order of the archive.
    """

    path: str
    name: str
    members: tuple[Member, ...]

    def names(self) -> Sequence[str]:
        """See `Partition`."""
        return [f"{self.name}#{member.name}" for member in self.members]

    def read(self, *, max_bytes: int) -> list[Image]:
        """See `Partition`."""
        images: list[Image] = []
        try:
            with storage_of(self.path).open(self.path) as file:
                for member in self.members:
                    if member.size > max_bytes:
                        images.append(describe_too_large(max_bytes))
                        continue
                    file.seek(member.offset)
                    images.append(file.read(member.size))
        except OSError as error:
            images += [describe_unreadable(error, "file")] * (len(self.members) - len(images))
        return images


def plan_shard(path: str, name: str, size: int) -> list[Members]:
    """Divide an archive; reads the headers of its members, and passes over what is no image.

    Raises:
        click.UsageError: it is damaged or compressed.
    """
    try:
        with storage_of(path).open(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = iter([_describe(info) for info in archive if _is_image(info)])
    except (OSError, tarfile.TarError) as error:
        raise click.UsageError(f"{path!r} cannot be read as an uncompressed tar archive: {error}") from None
    parts: list[Members] = []
    while part := tuple(islice(members, size)):
        parts.append(Members(path=path, name=name, members=part))
    return parts


def _describe(info: tarfile.TarInfo) -> Member:
    return Member(name=str(PurePosixPath(info.name)), offset=info.offset_data, size=info.size)


def _is_image(info: tarfile.TarInfo) -> bool:
    path = PurePosixPath(info.name)  # without the ./ that many archives have
    return info.isfile() and path.suffix.lower() in IMAGE_ENDINGS and is_in_sight(str(path))
