"""Public data sets as people copy them: repositories of the hub, image folders with metadata, WebDataset shards."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsr_training.data import SetOptions, check_images, open_set, read_pairs
from clipsr_training.data._shards import find_shards
from tests.training.made_images import png
from tests.training.test_clip_sources import write_shard

COLOURS = [(30 * i, 200 - 30 * i, 90) for i in range(6)]
TRAIN = SetOptions(split="train")
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "polar_bear"])})


def rows(n: int) -> list[dict[str, bytes | str]]:
    return [{"bytes": png(colour), "path": "x.png"} for colour in COLOURS[:n]]


def write_table(path: Path, labels: list[int], *, is_bare: bool = False) -> None:
    """A part of a repository, with the names of its classes or, bare, without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"image": rows(len(labels)), "label": labels}
    datasets.Dataset.from_dict(content, features=FEATURES).to_parquet(str(path))
    if is_bare:
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


CARD = (
    "---",
    "dataset_info:",
    "  features:",
    "  - name: image",
    "    dtype: image",
    "  - name: label",
    "    dtype:",
    "      class_label:",
    "        names:",
    "          '0': cat",
    "          '1': polar_bear",
    "configs:",
    "- config_name: default",
    "  data_files:",
    "  - split: train",
    "    path: data/train-*",
    "  - split: test",
    "    path: data/test-*",
    "---",
    "# A data set",
)


@pytest.mark.parametrize("is_bare", [False, True], ids=["names in the tables", "names in README.md only"])
def test_a_repository_with_a_card(tmp_path, is_bare):
    for part in range(2):
        write_table(tmp_path / f"set/data/train-{part:05d}-of-00002.parquet", [0, 1], is_bare=is_bare)
    write_table(tmp_path / "set/data/test-00000-of-00001.parquet", [1, 0, 1], is_bare=is_bare)
    write_text(tmp_path / "set/README.md", *CARD)
    images = open_set(str(tmp_path / "set"))
    assert (images.classnames, images.targets.tolist()) == (("cat", "polar bear"), [1, 0, 1])
    assert read_pairs(tmp_path / "set", options=TRAIN).texts == [(0,), (1,), (0,), (1,)]
    with pytest.raises(ValueError, match=r'Unknown split "val"\. Should be one of .* Choose with --split\.'):
        open_set(str(tmp_path / "set"), SetOptions(split="val"))


def test_an_incomplete_copy_is_said(tmp_path):
    for split in ("train", "test"):
        write_table(tmp_path / f"set/data/{split}-00000-of-00002.parquet", [0, 1])
    size = ("    num_bytes: 1000", "    num_examples: 4")
    counts = ("  splits:", "  - name: train", *size, "  - name: test", *size, "configs:")
    write_text(tmp_path / "set/README.md", *"\n".join(CARD).replace("configs:", "\n".join(counts)).split("\n"))
    with pytest.raises(ValueError, match=r"it holds other rows than its README\.md counts; copy it in full"):
        open_set(str(tmp_path / "set"))


def test_one_of_several_configurations_is_named_behind_a_colon(tmp_path):
    write_table(tmp_path / "set/a/test-0.parquet", [0, 1])
    write_table(tmp_path / "set/b/test-0.parquet", [1, 0, 1])
    configs = [[f"- config_name: {c}", "  data_files:", "  - split: test", f"    path: {c}/test-*"] for c in "ab"]
    write_text(tmp_path / "set/README.md", "---", "configs:", *configs[0], *configs[1], "---")
    with pytest.raises(ValueError, match=r"pick one among the available configs: \['a', 'b'\] Name it behind a colon"):
        open_set(str(tmp_path / "set"))
    assert open_set(f"{tmp_path / 'set'}:b").targets.tolist() == [1, 0, 1]


def test_tables_two_folders_down(tmp_path):
    """As in the branch that the hub converts to Parquet."""
    write_table(tmp_path / "set/default/test/0000.parquet", [0, 1])
    assert open_set(str(tmp_path / "set")).classnames == ("cat", "polar bear")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves metadata.csv open
@pytest.mark.parametrize("place", ["", "train"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_image_folder_with_metadata(tmp_path, place, kind):
    folder = tmp_path / "set" / place
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png(COLOURS[i]))
    if kind == "csv":
        write_text(folder / "metadata.csv", "file_name,text", *(f"{i}.png,a text {i}" for i in (2, 0, 1)))
    else:
        lines = [json.dumps({"file_name": f"{i}.png", "text": f"a text {i}"}) for i in (2, 0, 1)]
        write_text(folder / "metadata.jsonl", *lines)
    pairs = read_pairs(tmp_path / "set", options=TRAIN)
    found = {pairs.phrases[pairs.texts[i][0]]: pairs.encoded(i) for i in range(3)}
    assert found == {f"a text {i}": png(COLOURS[i]) for i in range(3)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves metadata.csv open
def test_images_that_metadata_does_not_name_are_reported(tmp_path):
    for split, named in (("train", 2), ("test", 4)):
        (tmp_path / "set" / split / "sub").mkdir(parents=True)
        for i in range(4):
            (tmp_path / "set" / split / ("sub" if i % 2 else "") / f"{i}.png").write_bytes(png(COLOURS[i]))
        files = [f"{'sub/' if i % 2 else ''}{i}.png" for i in range(named)]
        write_text(tmp_path / "set" / split / "metadata.csv", "file_name,text", *(f"{file},a" for file in files))
    said: dict[str, list[str]] = {}
    for split, named in (("train", 2), ("test", 4)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(read_pairs(tmp_path / "set", options=SetOptions(split=split))) == named
        said[split] = [str(one.message) for one in caught if one.category is UserWarning]
    names = "metadata.csv or metadata.jsonl or metadata.parquet"
    left_out = f"{tmp_path / 'set'}: 2 images that no {names} names are left out, the first train/2.png"
    assert said == {"train": [left_out], "test": []}


def test_images_beside_class_folders_are_reported(tmp_path):
    for name in ("cat/0.png", "dog/1.png", "loose.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(COLOURS[0]))
    with pytest.warns(UserWarning, match=r"1 images in no class folder are left out, the first loose\.png"):
        assert len(open_set(str(tmp_path))) == 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array(["b", "a", "b"]), [1, 0, 1]),
        (pa.array(["b", "a", "b"], pa.large_string()), [1, 0, 1]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1]),
    ],
    ids=["text", "large text", "categories"],
)
def test_labels_that_are_text(tmp_path, labels, expected):
    pq.write_table(pa.table({"image": rows(3), "label": labels}), tmp_path / "a.parquet")
    images = open_set(str(tmp_path / "a.parquet"))
    assert (images.classnames, images.targets.tolist()) == (("a", "b"), expected)
    check_images(images)


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8()])
def test_labels_that_are_numbers(tmp_path, kind):
    pq.write_table(pa.table({"image": rows(3), "label": pa.array([1, 0, 1], kind)}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="its labels are numbers without class names; name them in order"):
        open_set(str(tmp_path / "a.parquet"))
    images = open_set(str(tmp_path / "a.parquet"), SetOptions(labels=("cat", "dog")))
    assert (images.classnames, images.targets.tolist()) == (("cat", "dog"), [1, 0, 1])


def test_images_as_plain_bytes(tmp_path):
    pq.write_table(pa.table({"image": [png(COLOURS[0])], "caption": ["a"]}), tmp_path / "a.parquet")
    assert read_pairs(tmp_path / "a.parquet").encoded(0) == png(COLOURS[0])


def numbered(n: int = 4, **more: bytes) -> dict[str, bytes]:
    """Members of a shard with classes 0 and 1."""
    members: dict[str, bytes] = {}
    for i in range(n):
        members |= {f"{i}.png": png(COLOURS[i]), f"{i}.cls": b"%d\n" % (i % 2)}
        members |= {f"{i}.{ending}": content for ending, content in more.items()}
    return members


@pytest.mark.parametrize("spec", ["", "test", "test/0.tar"])
def test_the_form_of_clip_benchmark(tmp_path, spec):
    """Shards in a folder a split, and the names of classes in a file."""
    (tmp_path / "set/test").mkdir(parents=True)
    write_shard(tmp_path / "set/test/0.tar", numbered())
    write_text(tmp_path / "set/classnames.txt", "cat", "dog")
    images = open_set(str(tmp_path / "set" / spec))
    assert (images.classnames, images.targets.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
    named = open_set(str(tmp_path / "set" / spec), SetOptions(labels=("fox", "owl")))
    assert named.classnames == ("fox", "owl")


def test_shards_of_a_repository_are_those_of_the_split(tmp_path):
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data/train-0.tar", {"0.png": png(COLOURS[0]), "0.json": b'{"caption": "a"}'})
    write_shard(tmp_path / "data/test-0.tar", {"0.png": png(COLOURS[0]), "0.json": b'{"caption": "b"}'})
    assert read_pairs(tmp_path, options=TRAIN).phrases == ("a",)


def test_json_beside_a_class_need_not_hold_a_caption(tmp_path):
    path = write_shard(tmp_path / "a.tar", numbered(json=b'{"licence": 4}'))
    assert read_pairs(path, options=SetOptions(labels=("cat", "dog"))).phrases == ("cat", "dog")
    captioned = write_shard(tmp_path / "b.tar", numbered(json=b'{"caption": "a pet"}'))
    assert read_pairs(captioned).phrases == ("a pet",)
    other = write_shard(tmp_path / "c.tar", numbered(json=b"[]"))
    with pytest.raises(ValueError, match=r"c\.tar: 0\.json holds no object but a list"):
        read_pairs(other)


def test_a_table_of_git_lfs_is_named(tmp_path):
    write_text(
        tmp_path / "set/data/test-0.parquet", "version https://git-lfs.github.com/spec/v1", "oid sha256:0", "size 1"
    )
    with pytest.raises(ValueError, match=r"set can't be read as a repository of the hub: .*[Pp]arquet"):
        open_set(str(tmp_path / "set"))


def test_nothing_is_null(tmp_path):
    pq.write_table(pa.table({"image": rows(2), "caption": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: the caption is empty"):
        read_pairs(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [*rows(1), None], "caption": ["a", "b"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet, row 1: there is no image \(null\), as in 1 rows in all"):
        read_pairs(tmp_path / "b.parquet")


@pytest.mark.parametrize("split", ["", "/", "/etc", "*", "tr[a-z]in"])
def test_a_split_is_a_name_and_no_pattern(tmp_path, split):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.tar").touch()
    assert find_shards(tmp_path, split) == []
    assert find_shards(tmp_path, "train") == [tmp_path / "train" / "a.tar"]
