"""ListImages: pages that stay in step with their caller, whatever is added or deleted meanwhile."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipsr.v1 import library_pb2
from clipsr_gateway._library.checks import check_name, check_page_size, parse_filter, parse_parts, refuse
from clipsr_gateway._library.core import LibraryCore
from clipsr_gateway._library.messages import image_message
from clipsr_gateway._library.store.records import Parts, Record
from clipsr_gateway._library.store.table import LibraryTable

# Images whose large columns are read at once: 64 files of 1 MiB fill a message.
_BATCH = 64

# Tag and length of a message within a list.
_MESSAGE_OVERHEAD_BYTES = 8

# A page token says behind which image the page begins.
_TOKEN = re.compile(r"(\d{1,18})-([0-9a-f]{64})")


async def list_images(request: library_pb2.ListImagesRequest, *, core: LibraryCore) -> library_pb2.ListImagesResponse:
    """Return the page that a request asks for.

    Raises:
        InvalidRequestError: a field is wrong.
        LibraryError: the library cannot be read.
    """
    name = check_name(request.library, field="library", limits=core.library_limits)
    size = check_page_size(request.page_size, limits=core.library_limits)
    where = parse_filter(request.filter, field="filter", limits=core.library_limits)
    after = _read_token(request.page_token)
    table = await core.store.open(name)
    page = await table.page(size=size, where=where, after=after, newest_first=request.newest_first)
    max_bytes = core.limits.max_message_bytes - 1024  # the answer has a token and a number besides
    images = await _complete(page.records, parse_parts(request.parts), table, max_bytes=max_bytes)
    response = library_pb2.ListImagesResponse(images=images, total_count=page.total)
    end = page.end
    if len(images) < len(page.records):
        last = page.records[len(images) - 1]
        end = (last.add_time_us, last.sha256)
    if end is not None:
        response.next_page_token = "{}-{}".format(*end)
    return response


async def _complete(
    records: Sequence[Record], parts: Parts, table: LibraryTable, *, max_bytes: int
) -> list[library_pb2.StoredImage]:
    """Return the first images of a page with the large columns that are wanted, as many as fit one message."""
    images: list[library_pb2.StoredImage] = []
    left = max_bytes
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        if parts != Parts():
            found = {record.sha256: record for record in await table.fetch([one.sha256 for one in batch], parts)}
            batch = [found.get(record.sha256, record) for record in batch]  # deleted in this moment: without its parts
        for record in batch:
            image = image_message(record)
            left -= image.ByteSize() + _MESSAGE_OVERHEAD_BYTES
            if left < 0 and images:
                return images
            images.append(image)
    return images


def _read_token(token: str) -> tuple[int, str] | None:
    if not token:
        return None
    match = _TOKEN.fullmatch(token)
    if match is None:
        message = "page_token is none that this service gave; send the next_page_token of the page before, or none."
        raise refuse("page_token", "PAGE_TOKEN_INVALID", message)
    return int(match[1]), match[2]
