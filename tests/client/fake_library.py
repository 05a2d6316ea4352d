"""A LibraryService in memory: real on the wire, a few lines where the gateway has a database."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from clipsr.v1 import library_pb2, library_pb2_grpc, types_pb2

START_S = 1_700_000_000
THUMBNAIL = b"RIFF\x1a\x00\x00\x00WEBPVP8L"


def refuse(context: grpc.ServicerContext, code: int, reason: str, message: str, *details: Message) -> None:
    """End a call as the gateway does."""
    status = status_pb2.Status(code=code, message=message)
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain="clipsr"), *details):
        status.details.add().Pack(detail)
    context.abort_with_status(rpc_status.to_status(status))


@dataclass
class FakeLibraryService(library_pb2_grpc.LibraryServiceServicer):
    """Keeps images in the order in which they came; a text finds what has it in its source, and then the rest.

    Attributes:
        model_digest: of the model that is "served".
        libraries: by name.
        images: by library and hash.
        requests: every request that came, except the images of a stream.
        added: the images of every AddImages call, in the order in which they came.
        failures: statuses by the content of images that fail.
        on_add: called before each answer of AddImages with the number of answers before it; may abort by its context.
        on_reembed: called after each progress with the number of images done; may abort by its context.
        before: called with each unary request; may abort by its context.
        page_size: images of a page, whatever is asked for.
    """

    model_digest: str
    libraries: dict[str, library_pb2.Library] = field(default_factory=dict)
    images: dict[str, dict[str, library_pb2.StoredImage]] = field(default_factory=dict)
    requests: list[Message] = field(default_factory=list)
    added: list[list[library_pb2.NewImage]] = field(default_factory=list)
    failures: dict[bytes, status_pb2.Status] = field(default_factory=dict)
    on_add: Callable[[int, grpc.ServicerContext], None] | None = None
    on_reembed: Callable[[int, grpc.ServicerContext], None] | None = None
    before: Callable[[Message, grpc.ServicerContext], None] | None = None
    page_size: int = 100

    def create(self, name: str) -> None:
        """A library for the model that is served."""
        library = library_pb2.Library(
            name=name,
            model_digest=self.model_digest,
            embed_dim=2,
            keep_originals=True,
            thumbnail_side_px=160,
            create_time=Timestamp(seconds=START_S),
        )
        self.libraries[name] = library
        self.images[name] = {}

    def CreateLibrary(self, request, context):  # noqa: N802 - the name in the proto
        self._note(request, context)
        if request.name in self.libraries:
            refuse(context, code_pb2.ALREADY_EXISTS, "LIBRARY_EXISTS", f"There is a library {request.name!r}.")
        self.create(request.name)
        self.libraries[request.name].keep_originals = not request.discard_originals
        return library_pb2.CreateLibraryResponse(library=self._describe(request.name))

    def DropLibrary(self, request, context):  # noqa: N802
        self._note(request, context)
        self._find(request.library, context)
        del self.libraries[request.library]
        return library_pb2.DropLibraryResponse(image_count=len(self.images.pop(request.library)))

    def ListLibraries(self, request, context):  # noqa: N802
        self._note(request, context)
        described = [self._describe(name) for name in sorted(self.libraries)]
        return library_pb2.ListLibrariesResponse(libraries=described, model_digest=self.model_digest)

    def AddImages(self, request_iterator, context):  # noqa: N802
        config = next(request_iterator).options
        self._note(config, context)
        images = self._of_served_model(config.library, context)
        came: list[library_pb2.NewImage] = []
        self.added.append(came)
        for answered, message in enumerate(request_iterator):
            new = message.image
            came.append(new)
            response = self._add(images, new, updates=config.update_present)
            if self.on_add is not None:
                self.on_add(answered, context)
            yield response

    def SearchByText(self, request, context):  # noqa: N802
        self._note(request, context)
        images = self._of_served_model(request.library, context)
        found = sorted(images.values(), key=lambda image: request.text not in image.source)
        warnings = []
        if not request.text.isascii():
            message = "The model knows no word of it; ask in English."
            warnings.append(types_pb2.Warning(reason="QUERY_WITHOUT_KNOWN_TOKEN", message=message))
        return library_pb2.SearchByTextResponse(
            hits=self._hits(found, request.options),
            warnings=warnings,
            timing=types_pb2.Timing(queue_ms=0.5, inference_ms=12.25),
            search_ms=1.5,
            model_digest=self.model_digest,
        )

    def SearchByImage(self, request, context):  # noqa: N802
        self._note(request, context)
        images = self._of_served_model(request.library, context)
        name = request.sha256 or hashlib.sha256(request.image.content).hexdigest()
        found = sorted(images.values(), key=lambda image: image.sha256 != name)
        if request.exclude_query:
            found = [image for image in found if image.sha256 != name]
        hits = self._hits(found, request.options)
        return library_pb2.SearchByImageResponse(hits=hits, search_ms=1.5, model_digest=self.model_digest)

    def ListImages(self, request, context):  # noqa: N802
        self._note(request, context)
        images = [image for image in self._find(request.library, context).values() if passes(image, request.filter)]
        if request.newest_first:
            images.reverse()
        start = int(request.page_token or 0)
        end = start + min(request.page_size or self.page_size, self.page_size)
        return library_pb2.ListImagesResponse(
            images=[take_parts(image, request.parts) for image in images[start:end]],
            next_page_token=str(end) if end < len(images) else "",
            total_count=len(images),
        )

    def GetImage(self, request, context):  # noqa: N802
        self._note(request, context)
        images = self._find(request.library, context)
        if request.sha256 not in images:
            refuse(context, code_pb2.NOT_FOUND, "IMAGE_NOT_FOUND", "The library has no such image.")
        return library_pb2.GetImageResponse(image=take_parts(images[request.sha256], request.parts))

    def UpdateImages(self, request, context):  # noqa: N802
        self._note(request, context)
        chosen = select(self._find(request.library, context), request)
        changed = sum(change(image, request.changes) for image in chosen.values())
        return library_pb2.UpdateImagesResponse(matched_count=len(chosen), changed_count=changed)

    def DeleteImages(self, request, context):  # noqa: N802
        self._note(request, context)
        images = self._find(request.library, context)
        names = list(select(images, request))
        for name in names:
            del images[name]
        return library_pb2.DeleteImagesResponse(deleted_count=len(names))

    def ReembedLibrary(self, request, context):  # noqa: N802
        self._note(request, context)
        total = len(self._find(request.library, context))
        for done in range(0, total + 1, max(1, total // 2)):
            yield library_pb2.ReembedLibraryResponse(done_count=done, total_count=total)
            if self.on_reembed is not None:
                self.on_reembed(done, context)
        self.libraries[request.library].model_digest = self.model_digest
        library = self._describe(request.library)
        yield library_pb2.ReembedLibraryResponse(done_count=total, total_count=total, library=library)

    def _note(self, request: Message, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        if self.before is not None:
            self.before(request, context)

    def _find(self, name: str, context: grpc.ServicerContext) -> dict[str, library_pb2.StoredImage]:
        if name not in self.libraries:
            refuse(context, code_pb2.NOT_FOUND, "LIBRARY_UNKNOWN", f"There is no library {name!r}.")
        return self.images[name]

    def _of_served_model(self, name: str, context: grpc.ServicerContext) -> dict[str, library_pb2.StoredImage]:
        images = self._find(name, context)
        if self.libraries[name].model_digest != self.model_digest:
            message = f"Another model made {name!r}: run `clipsr-client library reembed {name}`."
            refuse(context, code_pb2.FAILED_PRECONDITION, "LIBRARY_OF_OTHER_MODEL", message)
        return images

    def _describe(self, name: str) -> library_pb2.Library:
        library = self.libraries[name]
        library.image_count = library.original_count = len(self.images[name])
        library.size_bytes = sum(image.size_bytes for image in self.images[name].values())
        library.needs_reembedding = library.model_digest != self.model_digest
        return library

    def _add(
        self, images: dict[str, library_pb2.StoredImage], new: library_pb2.NewImage, *, updates: bool = False
    ) -> library_pb2.AddImagesResponse:
        content = new.image.content
        name = hashlib.sha256(content).hexdigest()
        if content in self.failures:
            return library_pb2.AddImagesResponse(index=new.index, error=self.failures[content])
        if name in images:
            said = library_pb2.ImageChanges(source=new.source or None, add_tags=new.tags, set_metadata=new.metadata)
            image = images[name] if updates else library_pb2.StoredImage.FromString(images[name].SerializeToString())
            differs = change(image, said)
            present = library_pb2.PresentImage(
                sha256=name, differs=differs and not updates, updated=differs and updates
            )
            return library_pb2.AddImagesResponse(index=new.index, already_present=present)
        size, timing = types_pb2.Size(height=32, width=48), types_pb2.Timing(queue_ms=0.5, inference_ms=12.25)
        images[name] = library_pb2.StoredImage(
            sha256=name,
            source=new.source,
            tags=new.tags,
            metadata=new.metadata,
            size=size,
            size_bytes=len(content),
            media_type="image/png",
            add_time=Timestamp(seconds=START_S + len(images)),
            model_digest=self.model_digest,
            route=types_pb2.ROUTE_UPSCALED,
            has_original=True,
            thumbnail=THUMBNAIL + content,
            original=content,
            embedding=[0.6, 0.8],
        )
        added = library_pb2.AddedImage(
            sha256=name, size=size, route=types_pb2.ROUTE_UPSCALED, has_original=True, timing=timing
        )
        return library_pb2.AddImagesResponse(index=new.index, added=added)

    def _hits(
        self, found: list[library_pb2.StoredImage], options: library_pb2.SearchOptions
    ) -> Iterator[library_pb2.SearchHit]:
        passing = (image for image in found if passes(image, options.filter))
        for rank, image in enumerate(itertools.islice(passing, options.top_k or 10)):
            cosine = 0.5 - rank / 16
            if not options.HasField("min_cosine") or cosine >= options.min_cosine:
                yield library_pb2.SearchHit(image=take_parts(image, options.parts), cosine=cosine)


def select(images: dict[str, library_pb2.StoredImage], request) -> dict[str, library_pb2.StoredImage]:
    """The images that a request means."""
    if request.WhichOneof("selection") == "hashes":
        return {name: images[name] for name in request.hashes.sha256 if name in images}
    return {name: image for name, image in images.items() if passes(image, request.filter)}


def change(image: library_pb2.StoredImage, changes: library_pb2.ImageChanges) -> bool:
    """Change what is said of an image; whether that made a difference."""
    before = image.SerializeToString(deterministic=True)
    if changes.HasField("source"):
        image.source = changes.source
    kept = [] if changes.clear_tags else [tag for tag in image.tags if tag not in changes.remove_tags]
    image.tags[:] = dict.fromkeys([*kept, *changes.add_tags])
    for key in list(image.metadata) if changes.clear_metadata else changes.remove_metadata:
        image.metadata.pop(key, None)
    image.metadata.update(changes.set_metadata)
    return image.SerializeToString(deterministic=True) != before


def passes(image: library_pb2.StoredImage, wanted: library_pb2.ImageFilter) -> bool:
    """Whether a filter lets an image through."""
    time_ns = image.add_time.ToNanoseconds()
    return (
        set(wanted.all_tags) <= set(image.tags)
        and (not wanted.any_tags or bool(set(wanted.any_tags) & set(image.tags)))
        and all(image.metadata.get(key) == value for key, value in wanted.metadata.items())
        and image.source.startswith(wanted.source_prefix)
        and (not wanted.HasField("added_from") or time_ns >= wanted.added_from.ToNanoseconds())
        and (not wanted.HasField("added_before") or time_ns < wanted.added_before.ToNanoseconds())
    )


def take_parts(image: library_pb2.StoredImage, parts: library_pb2.ImageParts) -> library_pb2.StoredImage:
    """The image with nothing but what was asked for."""
    answer = library_pb2.StoredImage()
    answer.CopyFrom(image)
    for part in ("thumbnail", "original", "embedding"):
        if not getattr(parts, part):
            answer.ClearField(part)
    return answer
