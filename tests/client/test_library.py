"""Client.library of both clients against a real server."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2
from tests.client.fake_library import START_S, THUMBNAIL, refuse

import clipsr
from clipsr import (
    AddedImage,
    AlreadyExistsError,
    AnswerWarning,
    FailedImage,
    ImageChanges,
    ImageFilter,
    InvalidRequestError,
    LibraryInfo,
    ModelMismatchError,
    NewImage,
    NotFoundError,
    PresentImage,
    ReembedProgress,
    ServiceError,
    ServiceUnavailableError,
    StoredImage,
    UpdateResult,
)
from clipsr._codecs.library_requests import encode_deletions
from clipsr.v1 import library_pb2, types_pb2

START = datetime.fromtimestamp(START_S, timezone.utc)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def numbered(count: int) -> Iterator[NewImage]:
    return (NewImage(content=b"image %d" % index, source=f"n/{index}") for index in range(count))


@pytest.fixture
def kept(fake_service):
    """The service's side of the library."""
    fake_service.library.create("photos")
    return fake_service.library


@pytest.fixture
def library(client, kept):
    return client.library("photos")


@pytest.fixture
def filled(library):
    assert len(list(library.add(numbered(5)))) == 5
    return library


class TestLibraries:
    def test_from_creation_to_removal(self, client, fake_service):
        library = client.library("photos")
        created = library.create(keep_originals=False, thumbnail_side_px=96)
        [request] = fake_service.library.requests
        assert (request.name, request.discard_originals, request.thumbnail_side_px) == ("photos", True, 96)
        assert created == LibraryInfo(
            name="photos",
            model_digest=fake_service.info.digest,
            embed_dim=2,
            image_count=0,
            original_count=0,
            size_bytes=0,
            keep_originals=False,
            thumbnail_side_px=160,
            create_time=START,
            needs_reembedding=False,
            is_indexed=False,
            indexed_count=0,
        )
        list(library.add(numbered(3)))
        assert library.info().image_count == 3
        assert library.drop() == 3
        assert client.list_libraries() == []

    def test_they_are_listed_by_name(self, client, kept):
        client.library("animals").create()
        assert [library.name for library in client.list_libraries()] == ["animals", "photos"]
        assert client.library("photos").name == "photos"

    def test_a_name_that_is_taken(self, library):
        with pytest.raises(AlreadyExistsError, match="'photos'") as caught:
            library.create()
        assert caught.value.reason == "LIBRARY_EXISTS"

    def test_a_library_that_is_not_there(self, client, kept):
        missing = client.library("nobody")
        for ask in (missing.drop, lambda: missing.search_text("cat"), lambda: list(missing.list_images())):
            with pytest.raises(NotFoundError, match="'nobody'") as caught:
                ask()
            assert caught.value.reason == "LIBRARY_UNKNOWN"
        with pytest.raises(NotFoundError, match="'nobody'"):
            list(missing.add(numbered(1)))
        with pytest.raises(NotFoundError, match=r"'nobody'.*\(photos\)"):
            missing.info()

    def test_a_service_without_libraries(self, client, kept):
        def decline(request, context):
            refuse(context, code_pb2.UNIMPLEMENTED, "LIBRARIES_DISABLED", "This gateway keeps no libraries.")

        kept.before = decline
        with pytest.raises(ServiceError, match="keeps no libraries") as caught:
            client.list_libraries()
        assert (caught.value.code, caught.value.reason) == ("UNIMPLEMENTED", "LIBRARIES_DISABLED")
        assert "older one" not in str(caught.value)


class TestAdding:
    def test_every_property_reaches_the_service(self, library, kept):
        new = NewImage(content=b"a", source="猫", tags=["cat", "grass"], metadata={"camera": "left"})
        outcomes = list(library.add([new], fit="squash", route="native"))
        assert outcomes == [
            (
                0,
                AddedImage(
                    sha256=sha256(b"a"),
                    size_hw=(32, 48),
                    route="upscaled",
                    has_original=True,
                    queue_ms=0.5,
                    inference_ms=12.25,
                ),
            )
        ]
        [config] = kept.requests
        assert (config.library, config.fit, config.route) == ("photos", types_pb2.FIT_SQUASH, types_pb2.ROUTE_NATIVE)
        [[image]] = kept.added
        assert (image.source, list(image.tags), dict(image.metadata)) == ("猫", ["cat", "grass"], {"camera": "left"})

    def test_the_path_of_a_file_is_its_source(self, library, kept, tmp_path):
        (tmp_path / "a.png").write_bytes(b"a")
        with (tmp_path / "a.png").open("rb") as file:
            outcomes = dict(library.add([tmp_path / "a.png", b"b", str(tmp_path / "a.png"), file]))
        assert [type(outcomes[index]) for index in range(4)] == [AddedImage, AddedImage, PresentImage, PresentImage]
        path = str(tmp_path / "a.png")
        assert [image.source for image in kept.added[0]] == [path, "", path, ""]

    def test_the_same_bytes_are_one_image(self, library):
        first, again = list(library.add(numbered(2))), list(library.add(numbered(3)))
        assert all(isinstance(outcome, AddedImage) for _, outcome in first)
        assert again[:2] == [(index, PresentImage(sha256=outcome.sha256)) for index, outcome in first]
        assert library.info().image_count == 3

    def test_one_bad_image_fails_alone(self, library, kept, fake_service, tmp_path):
        fake_service.fail_image(b"image 1")
        kept.failures = fake_service._failures
        known = FailedImage(code="NOT_FOUND", reason="", message="Gone.")
        half = NewImage(content=b"half", source="\ud800")
        images = [*numbered(2), NewImage(content=tmp_path / "gone.png"), known, half, bytes(64 * 1024 * 1024)]
        outcomes = dict(library.add(images))
        assert isinstance(outcomes[0], AddedImage)
        assert (outcomes[1].code, outcomes[1].reason) == ("INVALID_ARGUMENT", "IMAGE_TRUNCATED")
        assert outcomes[2].code == "NOT_FOUND"
        assert outcomes[3] is known
        assert "is not UTF-8" in outcomes[4].message
        assert outcomes[5].reason == "IMAGE_TOO_LARGE"
        assert len(kept.added[0]) == 2

    def test_what_is_no_image_is_a_type_error(self, library):
        with pytest.raises(TypeError, match=r"\[image\]"):
            library.add(b"photo")
        with pytest.raises(TypeError):
            list(library.add([7]))
        with pytest.raises(TypeError, match="tags"):
            list(library.add([NewImage(content=b"a", tags="cat")]))

    def test_a_lost_connection_loses_no_image_and_repeats_no_outcome(self, library, kept):
        def cut(answered: int, context: grpc.ServicerContext) -> None:
            if answered == 7:  # what is answered here is in the library, and its answer gets lost
                context.abort(grpc.StatusCode.UNAVAILABLE, "The gateway goes down.")

        kept.on_add = cut
        outcomes = list(library.add(numbered(30), read_ahead=8))
        assert sorted(index for index, _ in outcomes) == list(range(30))
        kinds = [type(outcome) for _, outcome in sorted(outcomes)]
        assert kinds.count(PresentImage) == len(kept.added) - 1 > 1  # those whose answers were lost
        assert kinds.count(AddedImage) == 30 - kinds.count(PresentImage)
        assert library.info().image_count == 30

    def test_full_storage_ends_it(self, library, kept):
        def fill(answered: int, context: grpc.ServicerContext) -> None:
            if answered == 2:
                kept.before = lambda request, context: refuse_full(context)  # asyncio may lose the first status
                refuse_full(context)

        def refuse_full(context: grpc.ServicerContext) -> None:
            refuse(context, code_pb2.RESOURCE_EXHAUSTED, "LIBRARY_STORAGE_FULL", "The storage is full: make room.")

        kept.on_add = fill
        seen = []
        with pytest.raises(ServiceError, match="full: make room") as caught:
            seen.extend(index for index, _ in library.add(numbered(9)))
        assert caught.value.reason == "LIBRARY_STORAGE_FULL"
        assert seen == [0, 1]


class TestSearching:
    def test_by_words(self, filled, kept):
        result = filled.search_text("n/3", top_k=2, return_thumbnail=True, templates=["a {}"], is_exact=True)
        request = kept.requests[-1]
        assert (request.text, list(request.templates)) == ("n/3", ["a {}"])
        assert (request.options.top_k, request.options.is_exact) == (2, True)
        best, other = result.hits
        assert best.cosine == 0.5
        assert best.image == StoredImage(
            sha256=sha256(b"image 3"),
            source="n/3",
            tags=(),
            metadata={},
            size_hw=(32, 48),
            size_bytes=7,
            media_type="image/png",
            add_time=START + timedelta(seconds=3),
            model_digest=kept.model_digest,
            route="upscaled",
            has_original=True,
            thumbnail=THUMBNAIL + b"image 3",
        )
        assert other.image.source == "n/0"
        assert (result.queue_ms, result.inference_ms, result.search_ms) == (0.5, 12.25, 1.5)
        assert (result.model_digest, result.warnings) == (kept.model_digest, ())

    def test_a_query_that_the_model_does_not_know(self, filled):
        [warning] = filled.search_text("草地上的狗").warnings
        assert warning == AnswerWarning(
            reason="QUERY_WITHOUT_KNOWN_TOKEN", message="The model knows no word of it; ask in English."
        )

    def test_by_example(self, filled, kept, tmp_path):
        (tmp_path / "q.png").write_bytes(b"image 4")
        options = {"fit": "squash", "route": "native", "min_cosine": 0.4, "return_original": True}
        hits = filled.search_image(tmp_path / "q.png", return_embedding=True, **options).hits
        assert [hit.image.source for hit in hits] == ["n/4", "n/0"]
        assert hits[0].image.original == b"image 4"
        assert hits[0].image.embedding == pytest.approx((0.6, 0.8))
        request = kept.requests[-1]
        assert (request.fit, request.route) == (types_pb2.FIT_SQUASH, types_pb2.ROUTE_NATIVE)
        hits = filled.search_image(sha256=sha256(b"image 4"), exclude_query=True).hits
        assert [hit.image.source for hit in hits] == ["n/0", "n/1", "n/2", "n/3"]

    @pytest.mark.parametrize("query", [{}, {"image": b"a", "sha256": "b"}])
    def test_one_example_at_a_time(self, library, kept, query):
        with pytest.raises(InvalidRequestError, match="either an image, or the sha256"):
            library.search_image(**query)
        assert not kept.requests

    def test_filters(self, library):
        images = [
            NewImage(content=b"%d" % index, source=f"{'even' if index % 2 == 0 else 'odd'}/{index}", tags=tags)
            for index, tags in enumerate([["a"], ["a", "b"], ["b"], ["a", "b", "c"], []])
        ]
        list(library.add(images))
        found = {
            "all": ImageFilter(all_tags=["a", "b"]),
            "any": ImageFilter(any_tags=["c", "b"]),
            "prefix": ImageFilter(source_prefix="even/"),
            "time": ImageFilter(added_from=START + timedelta(seconds=1), added_before=START + timedelta(seconds=3)),
        }
        indices = {
            name: sorted(int(hit.image.source[-1]) for hit in library.search_text("x", where=where).hits)
            for name, where in found.items()
        }
        assert indices == {"all": [1, 3], "any": [1, 2, 3], "prefix": [0, 2, 4], "time": [1, 2]}
        assert [image.source for image in library.list_images(where=found["all"])] == ["odd/1", "odd/3"]

    def test_a_time_without_its_zone_is_refused(self, library):
        with pytest.raises(InvalidRequestError, match="time zone"):
            library.search_text("cat", where=ImageFilter(added_from=datetime(2026, 1, 1)))

    def test_texts_that_utf8_cannot_write(self, library):
        with pytest.raises(InvalidRequestError, match="is not UTF-8"):
            library.search_text("\ud800")
        with pytest.raises(InvalidRequestError, match="is not UTF-8"):
            library.search_text("cat", where=ImageFilter(all_tags=["\ud800"]))

    def test_a_library_of_another_model(self, filled, kept):
        kept.model_digest = "sha256:" + "cd" * 32
        with pytest.raises(ModelMismatchError, match="library reembed photos") as caught:
            filled.search_text("cat")
        assert caught.value.reason == "LIBRARY_OF_OTHER_MODEL"
        with pytest.raises(ModelMismatchError):
            list(filled.add(numbered(1)))
        assert len(list(filled.list_images())) == 5
        *_, last = filled.reembed()
        assert (last.done_count, last.library.model_digest) == (5, kept.model_digest)
        assert filled.search_text("cat").hits


class TestImages:
    @pytest.mark.parametrize("newest_first", [False, True])
    def test_they_are_listed_page_by_page(self, filled, kept, newest_first):
        kept.page_size = 2
        listed = [image.source for image in filled.list_images(newest_first=newest_first)]
        assert listed == sorted((f"n/{index}" for index in range(5)), reverse=newest_first)
        assert len(kept.requests) == 1 + 3

    def test_no_page_is_asked_for_before_it_is_wanted(self, filled, kept):
        kept.page_size = 2
        assert len(list(itertools.islice(filled.list_images(page_size=2), 2))) == 2
        assert len(kept.requests) == 1 + 1

    def test_a_page(self, filled):
        page = filled.list_page(page_size=3, return_thumbnail=True)
        assert [image.source for image in page.images] == ["n/0", "n/1", "n/2"]
        assert (page.total_count, page.images[0].thumbnail) == (5, THUMBNAIL + b"image 0")
        rest = filled.list_page(page.next_page_token)
        assert ([image.source for image in rest.images], rest.next_page_token) == (["n/3", "n/4"], "")

    def test_one(self, filled):
        image = filled.get_image(sha256(b"image 2"), return_original=True, return_thumbnail=True, return_embedding=True)
        assert (image.source, image.original, image.thumbnail) == ("n/2", b"image 2", THUMBNAIL + b"image 2")
        plain = filled.get_image(sha256(b"image 2"))
        assert (plain.original, plain.thumbnail, plain.embedding) == (None, None, None)
        with pytest.raises(NotFoundError) as caught:
            filled.get_image("00")
        assert caught.value.reason == "IMAGE_NOT_FOUND"

    def test_they_are_deleted(self, filled):
        assert filled.delete_images([sha256(b"image 1"), sha256(b"nothing")]) == 1
        assert filled.delete_images(where=ImageFilter(source_prefix="n/4")) == 1
        assert filled.delete_images([]) == 0
        assert [image.source for image in filled.list_images()] == ["n/0", "n/2", "n/3"]
        with pytest.raises(InvalidRequestError, match="either hashes or a filter"):
            filled.delete_images(["00"], where=ImageFilter(all_tags=["a"]))
        with pytest.raises(TypeError, match="hashes"):
            filled.delete_images("00")

    def test_what_is_said_of_them_changes(self, filled, kept):
        names = [sha256(b"image 0"), "0" * 64]
        changes = ImageChanges(source="moved", add_tags=["b", "a"], set_metadata={"k": "v"})
        assert filled.update_images(names, changes=changes) == UpdateResult(matched_count=1, changed_count=1)
        assert filled.update_images(names, changes=changes) == UpdateResult(matched_count=1, changed_count=0)
        image = filled.get_image(names[0])
        assert (image.source, image.tags[-2:], image.metadata["k"]) == ("moved", ("b", "a"), "v")
        everything = filled.update_images(where=ImageFilter(), changes=ImageChanges(clear_tags=True))
        assert everything.matched_count == len(kept.images["photos"])
        assert not any(image.tags for image in filled.list_images())

    def test_changes_name_images_one_way(self, filled):
        with pytest.raises(InvalidRequestError, match="either hashes or a filter"):
            filled.update_images(["0" * 64], where=ImageFilter(), changes=ImageChanges(source="x"))
        with pytest.raises(TypeError, match="give ImageChanges"):
            filled.update_images(["0" * 64], changes={"source": "x"})

    def test_added_again_they_say_what_differs_or_take_it(self, library):
        list(library.add([NewImage(content=b"1", tags=["a"])]))
        again = [NewImage(content=b"1", tags=["b"])]
        assert list(library.add(again)) == [(0, PresentImage(sha256=sha256(b"1"), differs=True))]
        assert list(library.add(again, update_present=True)) == [(0, PresentImage(sha256=sha256(b"1"), updated=True))]
        assert library.get_image(sha256(b"1")).tags == ("a", "b")

    def test_many_are_deleted_in_parts(self):
        requests = list(encode_deletions("photos", [f"{index:064x}" for index in range(2_500)], where=None))
        assert [len(request.hashes.sha256) for request in requests] == [1_000, 1_000, 500]


class TestReembedding:
    def test_progress(self, filled):
        progress = list(filled.reembed())
        assert [each.done_count for each in progress] == [0, 2, 4, 5]
        assert progress[0] == ReembedProgress(done_count=0, total_count=5, dropped_count=0)
        assert progress[-1].library == filled.info()

    def test_it_goes_on_after_a_lost_connection(self, filled, kept):
        def cut_once(request, context) -> None:
            kept.before = None
            context.abort(grpc.StatusCode.UNAVAILABLE, "The gateway goes down.")

        kept.before = cut_once
        assert [each.done_count for each in filled.reembed(drop_without_original=True)][-1] == 5
        assert sum(isinstance(each, library_pb2.ReembedLibraryRequest) for each in kept.requests) == 2
        assert kept.requests[-1].drop_without_original

    def test_without_progress_it_gives_up(self, connect, filled, kept, fake_service):
        def cut(done: int, context: grpc.ServicerContext) -> None:
            if done == 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Again.")

        kept.on_reembed = cut
        seen = []
        with pytest.raises(ServiceUnavailableError):
            seen.extend(each.done_count for each in connect(fake_service.url, retries=2).library("photos").reembed())
        assert seen == [0, 2] * 3

    def test_it_can_be_ended_early(self, filled, kept):
        ended = threading.Event()
        kept.before = lambda request, context: context.add_callback(ended.set)
        progress = filled.reembed()
        next(progress)
        progress.close()
        assert ended.wait(10)

    def test_files_that_were_not_kept(self, filled, kept):
        def decline(request, context) -> None:
            refuse(context, code_pb2.FAILED_PRECONDITION, "LIBRARY_ORIGINALS_MISSING", "2 images have no file.")

        kept.before = decline
        with pytest.raises(InvalidRequestError, match="2 images have no file"):
            list(filled.reembed())


class TestRepeating:
    """A call whose second attempt would be answered otherwise is repeated only if the first was refused."""

    @pytest.mark.parametrize("method", ["create", "drop", "delete"])
    def test_a_lost_answer_is_not_followed_by_a_second_attempt(self, library, kept, method):
        attempts = []

        def lose(request, context) -> None:
            attempts.append(request)
            context.abort(grpc.StatusCode.UNAVAILABLE, "Lost.")

        kept.before = lose
        calls = {"create": library.create, "drop": library.drop, "delete": lambda: library.delete_images(["00"])}
        with pytest.raises(ServiceUnavailableError):
            calls[method]()
        assert len(attempts) == 1

    def test_a_refused_call_is_made_again(self, library, kept):
        def refuse_once(request, context) -> None:
            kept.before = None
            retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=1_000_000))
            refuse(context, code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", "Too much to do.", retry)

        kept.before = refuse_once
        assert library.drop() == 0

    def test_searches_are_made_again(self, filled, kept):
        def lose_once(request, context) -> None:
            kept.before = None
            context.abort(grpc.StatusCode.UNAVAILABLE, "Lost.")

        kept.before = lose_once
        assert len(filled.search_text("cat").hits) == 5


def test_every_field_of_the_wire_has_its_attribute():
    others = {"size": "size_hw", "timing": ""}
    for message, value in [
        (library_pb2.Library, clipsr.LibraryInfo),
        (library_pb2.StoredImage, clipsr.StoredImage),
        (library_pb2.ImageFilter, clipsr.ImageFilter),
        (library_pb2.SearchHit, clipsr.SearchHit),
        (types_pb2.Warning, clipsr.AnswerWarning),
        (library_pb2.ListImagesResponse, clipsr.ImagePage),
        (library_pb2.ReembedLibraryResponse, clipsr.ReembedProgress),
        (types_pb2.LibraryLimits, clipsr.LibraryLimits),
    ]:
        fields = [others.get(each.name, each.name) for each in message.DESCRIPTOR.fields]
        assert fields == list(value.__dataclass_fields__)
