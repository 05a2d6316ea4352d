"""Image-text pairs in every form on disk, and what is said about files that are wrong."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from datasets import Image as ImageColumn
from PIL import Image

from clipsr_training._cli.train import main as train_main
from clipsr_training.data import SetOptions, open_set, read_pairs
from tests.training.made_images import class_folders


def picture(seed: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def same(image: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(other))


def test_class_folders_name_classes(tmp_path):
    for seed, name in enumerate(["lawn_mower/a.png", "lawn_mower/deep/b.png", "cat/c.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    source = read_pairs(tmp_path)
    assert source.has_classes
    assert source.phrases == ("cat", "lawn mower")
    assert source.texts == [(0,), (1,), (1,)]
    assert same(source.image(0), picture(2))


def test_a_table_with_labels_and_a_saved_dataset(tmp_path, parquet):
    source = read_pairs(parquet)
    assert (len(source), source.phrases, source.has_classes) == (48, ("cat", "lawn mower", "ship"), True)
    assert source.name == "toy"  # not "train", which every data set has
    load_dataset("parquet", data_files=str(parquet), split="train").save_to_disk(tmp_path / "saved")
    saved = read_pairs(tmp_path / "saved")
    assert saved.texts == source.texts
    assert same(saved.image(5), source.image(5))


def test_a_table_with_captions(tmp_path):
    features = Features({"image": ImageColumn(), "caption": Value("string")})
    rows = {"image": [picture(0), picture(1), picture(2)], "caption": ["a cat", "a dog", "a cat"]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "pairs.parquet")
    source = read_pairs(tmp_path / "pairs.parquet")
    assert not source.has_classes
    assert (source.phrases, source.texts) == (("a cat", "a dog"), [(0,), (1,), (0,)])


@pytest.mark.parametrize(("name", "delimiter"), [("pairs.csv", ","), ("pairs.tsv", "\t")])
def test_caption_files(tmp_path, name, delimiter):
    """Lines of one image are its captions; equal captions are one phrase; paths are relative to the file."""
    for seed in range(2):
        picture(seed).save(tmp_path / f"{seed}.png")
    lines = [["path", "caption"], ["0.png", "a cat"], ["1.png", "a dog"], ["0.png", "a pet"], ["1.png", "a pet"]]
    (tmp_path / name).write_text("\n".join(delimiter.join(line) for line in lines), encoding="utf-8")
    source = read_pairs(tmp_path / name)
    assert source.phrases == ("a cat", "a pet", "a dog")
    assert source.texts == [(0, 1), (2, 1)]
    assert same(source.image(1), picture(1))


def test_webdataset_shards(tmp_path):
    write_shard(tmp_path / "0.tar", {"a/1.png": encoded(picture(0)), "a/1.txt": b"a cat\n", "a/2.cls": b"7"})
    caption = json.dumps({"caption": "a dog"}).encode()
    write_shard(tmp_path / "1.tar", {"3.jpg": encoded(picture(1), "JPEG"), "3.json": caption})
    with pytest.warns(UserWarning, match="1 samples without an image are left out, the first a/2"):
        source = read_pairs(tmp_path)
    assert source.phrases == ("a cat", "a dog")
    assert same(source.image(0), picture(0))
    assert same(source.image(1), Image.open(io.BytesIO(encoded(picture(1), "JPEG"))))
    assert read_pairs(tmp_path / "1.tar").phrases == ("a dog",)


def test_lossless_images_are_made_lossy_and_lossy_ones_left_alone(tmp_path):
    pictures = [picture(seed) for seed in range(4)]
    formats = [("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {"quality": 50}), ("JPEG", {"quality": 50})]
    files = [encoded(p, name, **options) for p, (name, options) in zip(pictures, formats, strict=True)]
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["cat"])})
    rows = {"image": [{"bytes": file, "path": None} for file in files], "label": [0] * 4}
    path = tmp_path / "mixed.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(path)

    as_stored, homogeneous = read_pairs(path), read_pairs(path, webp_quality=50)

    assert [same(as_stored.image(i), homogeneous.image(i)) for i in range(4)] == [False, False, True, True]
    assert same(homogeneous.image(0), Image.open(io.BytesIO(encoded(pictures[0], "WEBP", quality=50))))


def test_the_digest_follows_content_and_reading(tmp_path):
    (tmp_path / "cat").mkdir()
    picture(0).save(tmp_path / "cat" / "a.png")
    digest = read_pairs(tmp_path).digest
    assert read_pairs(tmp_path).digest == digest
    assert read_pairs(tmp_path, webp_quality=95).digest != digest
    picture(1).save(tmp_path / "cat" / "a.png")
    assert read_pairs(tmp_path).digest != digest


def unreadable(folder: Path) -> Path:
    (folder / "cat").mkdir()
    (folder / "cat" / "a.png").write_bytes(encoded(picture(0))[:200])
    return folder


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    source = read_pairs(unreadable(tmp_path))
    with pytest.raises(ValueError, match=r"cat/a\.png can't be read as an image"):
        source.image(0)
    with pytest.raises(ValueError, match=r"1 of 1 images of .* can't be read: .*cat/a\.png \("):
        source.check()


def test_orientation_and_transparency_are_those_of_the_service(tmp_path):
    (tmp_path / "cat").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture(0).save(tmp_path / "cat" / "a.png", exif=exif)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cat" / "b.png")
    source = read_pairs(tmp_path)
    assert source.image(0).size == (24, 32)
    assert source.image(1).getpixel((0, 0)) == (255, 255, 255)


def wrong_files() -> dict[str, tuple[dict[str, bytes], str]]:
    """Return {file to open: (files to write, what the message must say)}."""
    return {
        "nowhere": ({}, "no data at"),
        "notes.txt": ({"notes.txt": b"x"}, r"expected \.parquet, \.csv"),
        "folder": ({"folder/x.txt": b"x"}, "holds no class folders"),
        "classes": ({"classes/cat/a.png": encoded(picture(0)), "classes/dog/x.txt": b"x"}, "dog holds no images"),
        "a.csv": ({"a.csv": b"path,size\n0.png,3\n"}, "no column for the caption"),
        "b.csv": ({"b.csv": b"picture,caption\n0.png,cat\n"}, "no column for the image"),
        "c.csv": ({"c.csv": b"path,caption\n0.png,cat\n"}, r"1 missing files, the first .*0\.png"),
        "d.csv": ({"d.csv": b"path,caption\n0.png\n"}, "line 2: 1 cells, but the header has 2"),
        "e.csv": ({"e.csv": b""}, "it has none"),
        "a.tar": ({"a.tar": b"not a tar file"}, "not an uncompressed tar file"),
    }


@pytest.mark.parametrize("name", sorted(wrong_files()))
def test_wrong_files_are_explained(tmp_path, name):
    files, message = wrong_files()[name]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        read_pairs(tmp_path / name)


def test_shards_without_captions_are_explained(tmp_path):
    write_shard(tmp_path / "a.tar", {"1.png": encoded(picture(0))})
    with pytest.raises(ValueError, match=r"1 has no \.txt, \.json or \.cls file"):
        read_pairs(tmp_path / "a.tar")
    write_shard(tmp_path / "b.tar", {"1.png": encoded(picture(0)), "1.json": b'{"url": "x"}'})
    with pytest.raises(ValueError, match=r"1\.json has none of caption, text, title"):
        read_pairs(tmp_path / "b.tar")


def test_tables_without_the_expected_columns_are_explained(tmp_path):
    Dataset.from_dict({"picture": [1], "label": [2]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no column for the image .*; it has picture, label: name it"):
        read_pairs(tmp_path / "a.parquet")
    images = {"image": [picture(0)]}
    Dataset.from_dict({**images, "label": [2]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="numbers without class names; name them in order with --labels"):
        read_pairs(tmp_path / "b.parquet")
    Dataset.from_dict({**images, "size": [2]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"no column for the label .* or the caption"):
        read_pairs(tmp_path / "c.parquet")
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["cat"])})
    rows = {"image": [picture(0), picture(1)], "label": [0, -1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="row 1: the image has no known class"):
        read_pairs(tmp_path / "d.parquet")


def labelled_table(n: int, *, image: str = "img", label: str = "fine_label") -> Dataset:
    """Images of the classes `lawn_mower` and `cat`, in turn, in columns named as CIFAR-100's on the hub."""
    features = Features({image: ImageColumn(), label: ClassLabel(names=["lawn_mower", "cat"])})
    return Dataset.from_dict(
        {image: [picture(i) for i in range(n)], label: [i % 2 for i in range(n)]}, features=features
    )


def test_training_and_evaluation_read_the_same(tmp_path):
    """Columns, humanize names, splits and folders: whatever opens for both holds the same images and classes."""
    DatasetDict({"train": labelled_table(6), "test": labelled_table(4)}).save_to_disk(tmp_path / "saved")
    labelled_table(4, image="png", label="cls").to_parquet(tmp_path / "columns.parquet")
    folders = class_folders(tmp_path / "folders", ("lawn_mower", ".cache", "cat"))
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(folders / "cat" / "moving.gif")
    for spec, split in (("saved", "train"), ("saved", "test"), ("columns.parquet", ""), ("folders", "")):
        options = SetOptions(split=split)
        pairs, images = read_pairs(tmp_path / spec, options=options), open_set(str(tmp_path / spec), options)
        assert sorted(pairs.phrases) == ["cat", "lawn mower"]
        assert pairs.phrases == images.classnames
        assert [own[0] for own in pairs.texts] == images.targets.tolist()
        assert [pairs.encoded(i) for i in range(len(pairs))] == [images.read(i) for i in range(len(images))]
    assert len(read_pairs(tmp_path / "saved")) == 6  # the split that is trained on, unless named
    assert len(read_pairs(tmp_path / "folders")) == 9


def test_folders_named_by_wordnet_ids_are_not_taken_for_labels(tmp_path):
    folder = class_folders(tmp_path / "train", ("n00000001", "n00000003"))
    with pytest.raises(ValueError, match=r"named by WordNet ids, such as n00000001.* with --devkit"):
        read_pairs(folder)


def test_columns_can_be_named(tmp_path):
    table = labelled_table(4).rename_columns({"img": "photo", "fine_label": "species"})
    table.add_column("remark", ["a", "b", "a", ""]).to_parquet(tmp_path / "a.parquet")
    options = SetOptions(image_column="photo", label_column="species")
    assert read_pairs(tmp_path / "a.parquet", options=options).phrases == ("lawn mower", "cat")
    with pytest.raises(ValueError, match="row 3: the caption is empty"):
        read_pairs(tmp_path / "a.parquet", options=SetOptions(image_column="photo", caption_column="remark"))
    with pytest.raises(
        ValueError, match="has no column genus; it has photo, species, remark: name it with --label-column"
    ):
        read_pairs(tmp_path / "a.parquet", options=SetOptions(image_column="photo", label_column="genus"))


def test_public_sets_are_asked_for_by_their_names_and_split(monkeypatch):
    asked: list[tuple[object, ...]] = []

    def load(name: str, config: str | None, *, split: str) -> Dataset:
        asked.append((name, config, split))
        return labelled_table(4)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_pairs("cifar100").phrases == ("lawn mower", "cat")
    assert read_pairs("hub:someone/pets:large", options=SetOptions(split="all")).name == "pets:large"
    assert open_set("cifar10").name == "cifar10"
    hub = ("uoft-cs/cifar100", None, "train"), ("someone/pets", "large", "all"), ("uoft-cs/cifar10", None, "test")
    assert asked == [*hub]


def test_the_asked_split_of_a_public_set_is_trained_on(tmp_path, capsys):
    """By the loading code of `datasets` itself, which takes a folder of Parquet files as it takes the hub's."""
    for split, n in (("train", 40), ("test", 4)):
        labelled_table(n).to_parquet(tmp_path / "toy" / f"{split}.parquet")
    assert len(read_pairs(f"hub:{tmp_path}/toy")) == 40
    arguments = ["clip", "--data", f"hub:{tmp_path}/toy", "--split", "test", "--output", str(tmp_path / "run")]
    assert train_main(arguments) == 1
    assert "toy: class 'lawn mower' has no more than the 10 images" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cifar10", "hub:nobody/nothing"])
def test_a_hub_out_of_reach_is_one_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "nothing is here")
    assert train_main(["clip", "--data", name, "--output", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("clipsr-train: the data set ")
    assert "can't be had from the hub: Couldn't reach" in error
    assert error.count("\n") == 1
