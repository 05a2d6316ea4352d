"""Data sets to measure on: what opens, and one sentence for everything that is wrong with them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageColumn
from PIL import Image
from scipy.io import savemat

from clipsr_training import prompts
from clipsr_training.data import SetOptions, check_images, open_set
from clipsr_training.data._imagenet import read_devkit
from tests.training.made_images import class_folders, png


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Classes `blue sky`, `green` and `red`, four images each."""
    return class_folders(tmp_path / "colours")


def write_devkit(folder: Path, labels: list[int], *, year: int = 2012) -> Path:
    """A development kit of three classes and their hypernym, as ImageNet's is laid out."""
    data = folder / "data"
    data.mkdir(parents=True)
    rows = [(1, "n00000003", "red fox, fox", 0), (2, "n00000001", "goldfish", 0), (3, "n00000002", "cock", 0)]
    rows.append((4, "n00000009", "animal", 3))
    kind = [(f"ILSVRC{year}_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.array([(i, wnid, words, "", children) for i, wnid, words, children in rows], dtype=kind)
    savemat(data / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    name = f"ILSVRC{year}_validation_ground_truth.txt"
    (data / name).write_text("".join(f"{label}\n" for label in labels), "utf-8")
    return folder


def write_validation_images(folder: Path, numbers: list[int]) -> Path:
    folder.mkdir()
    for number in numbers:
        Image.new("RGB", (40, 30), (number, 0, 0)).save(folder / f"ILSVRC2012_val_{number:08}.JPEG")
    return folder


def test_class_folders(folders):
    images = open_set(str(folders))
    assert images.name == "colours"
    assert images.classnames == ("blue sky", "green", "red")
    assert images.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.names[4] == "green/0.png"
    assert images.read(4) == (folders / "green" / "0.png").read_bytes()
    check_images(images)


def test_a_sample_is_the_same_images_every_time(folders):
    images = open_set(str(folders))
    part = images.sample(5)
    assert len(part) == 5
    assert part.names == open_set(str(folders)).sample(5).names
    assert part.digest != images.digest == open_set(str(folders)).digest
    for i, name in enumerate(part.names):
        assert part.read(i) == (folders / name).read_bytes()
        assert part.classnames[part.targets[i]].replace(" ", "_") == name.split("/")[0]
    assert images.sample(100) is images


def test_tables_of_every_kind_hold_the_same(folders, tmp_path):
    expected = open_set(str(folders))
    features = Features({"img": ImageColumn(), "fine_label": ClassLabel(names=["blue_sky", "green", "red"])})
    rows = {
        "img": [{"bytes": expected.read(i), "path": None} for i in range(len(expected))],
        "fine_label": expected.targets.tolist(),
    }
    table = Dataset.from_dict(rows, features=features)
    table.to_parquet(str(tmp_path / "colours.parquet"))
    DatasetDict({"test": table}).save_to_disk(str(tmp_path / "saved"))
    lines = [f"{name}\t{expected.classnames[t]}\n" for name, t in zip(expected.names, expected.targets, strict=True)]
    (folders / "list.tsv").write_text("image\tlabel\n" + "".join(lines), "utf-8")
    for spec in (tmp_path / "colours.parquet", tmp_path / "saved", folders / "list.tsv"):
        images = open_set(str(spec))
        assert images.classnames == expected.classnames
        assert images.targets.tolist() == expected.targets.tolist()
        assert [images.read(i) for i in range(12)] == [expected.read(i) for i in range(12)]
    with pytest.raises(ValueError, match=r"no split 'val'; choose with --split: test"):
        open_set(str(tmp_path / "saved"), SetOptions(split="val"))
    with pytest.raises(ValueError, match=r"no column label; it has img, fine_label: name it with --label-column"):
        open_set(str(tmp_path / "colours.parquet"), SetOptions(label_column="label"))


def test_imagenet_from_the_flat_folder_and_the_kit(tmp_path):
    devkit = write_devkit(tmp_path / "ILSVRC2012_devkit_t12", [3, 1, 2, 1])
    folder = write_validation_images(tmp_path / "val", [1, 2, 3, 4])
    for options in (SetOptions(), SetOptions(devkit=devkit), SetOptions(devkit=devkit / "data")):
        images = open_set(str(folder), options)
        assert images.name == "imagenet"
        # Sorted by WordNet id, the first synonym.
        assert images.classnames == ("goldfish", "cock", "red fox")
        assert [images.classnames[t] for t in images.targets] == ["cock", "red fox", "goldfish", "red fox"]
    part = write_validation_images(tmp_path / "part", [2, 3, 1])
    assert open_set(str(part), SetOptions(devkit=devkit)).targets.tolist() == [1, 2, 0]


def test_folders_named_by_wordnet_ids_get_words_from_the_kit(tmp_path):
    devkit = write_devkit(tmp_path / "kit", [1])
    folder = class_folders(tmp_path / "val", ("n00000001", "n00000003"))
    assert open_set(str(folder), SetOptions(devkit=devkit)).classnames == ("goldfish", "red fox")
    with pytest.raises(ValueError, match=r"named by WordNet ids, such as n00000001.* with --devkit"):
        open_set(str(folder))
    (folder / "n00000001").rename(folder / "n00000008")
    with pytest.raises(ValueError, match="knows no class n00000008"):
        open_set(str(folder), SetOptions(devkit=devkit))


def test_all_of_imagenets_folders_get_the_published_names(tmp_path):
    from open_clip import IMAGENET_CLASSNAMES

    content = png((0, 0, 0))
    for i in range(1000):
        (tmp_path / f"n{i:08}").mkdir()
        (tmp_path / f"n{i:08}" / "0.png").write_bytes(content)
    images = open_set(str(tmp_path))
    assert images.name == "imagenet"
    assert images.classnames == tuple(IMAGENET_CLASSNAMES)
    assert images.classnames[0] == "tench"


def test_prompt_sets_are_the_published_ones_and_name_their_source():
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    sets = prompts.template_sets()
    assert {name: len(templates) for name, templates in sets.items()} == {"simple": 1, "cifar": 18, "imagenet": 80}
    assert sorted(sets["imagenet"]) == sorted(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    folder = Path(prompts.__file__).parent
    files = {path.name: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    assert files.keys() >= {"labels.json", "synonyms.json", "templates.json"}
    for name, content in files.items():
        assert content["source"], name
    assert files["templates.json"]["source"].keys() == sets.keys()


# Everything that can be wrong, and the sentence that says it. Each change is made to a sound data set.


def an_empty_class(folder: Path) -> Path:
    for path in (folder / "green").iterdir():
        path.unlink()
    return folder


def no_classes(folder: Path) -> Path:
    for path in list(folder.iterdir()):
        shutil.rmtree(path)
    return folder


def a_table_without_labels(folder: Path) -> Path:
    path = folder.parent / "x.parquet"
    Dataset.from_dict({"image": [png((0, 0, 0))]}).to_parquet(str(path))
    return path


def a_table_without_class_names(folder: Path) -> Path:
    path = folder.parent / "x.parquet"
    Dataset.from_dict({"image": [png((0, 0, 0))], "label": [0]}).to_parquet(str(path))
    return path


def a_table_that_lacks_a_class(folder: Path) -> Path:
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["cat", "dog", "bird"])})
    rows = {"image": [{"bytes": png((0, 0, 0)), "path": None}] * 2, "label": [0, 2]}
    path = folder.parent / "x.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return path


def captions_without_a_column(folder: Path) -> Path:
    (folder / "list.csv").write_text("image,caption\nred/0.png,a red square\n", "utf-8")
    return folder / "list.csv"


def captions_with_a_gap(folder: Path) -> Path:
    (folder / "list.csv").write_text("image,label\nred/0.png,red\nred/1.png,\n", "utf-8")
    return folder / "list.csv"


def too_few_labels(folder: Path) -> Path:
    write_devkit(folder.parent / "ILSVRC2012_devkit_t12", [3, 1, 2])
    return write_validation_images(folder.parent / "val", [1, 2, 3, 4, 5])


def no_kit(folder: Path) -> Path:
    return write_validation_images(folder.parent / "val", [1, 2])


def the_kit_of_another_year(folder: Path) -> Path:
    kit = write_devkit(folder.parent / "ILSVRC2012_devkit_t12", [3, 1, 2], year=2010)
    truth = "ILSVRC2012_validation_ground_truth.txt"
    (kit / "data" / "ILSVRC2010_validation_ground_truth.txt").rename(kit / "data" / truth)
    return write_validation_images(folder.parent / "val", [1, 2])


def ground_truth_of_another_year(folder: Path) -> Path:
    kit = write_devkit(folder.parent / "ILSVRC2012_devkit_t12", [3, 1, 2])
    truth = kit / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.rename(truth.with_name("ILSVRC2011_validation_ground_truth.txt"))
    return write_validation_images(folder.parent / "val", [1, 2])


def ground_truth_beyond_the_classes(folder: Path) -> Path:
    write_devkit(folder.parent / "ILSVRC2012_devkit_t12", [3, 1, 7])
    return write_validation_images(folder.parent / "val", [1, 2])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: folder / "nowhere", "no data at .*nowhere: expected a Parquet, CSV, TSV or tar file, a folder"),
        (an_empty_class, "the class folder .*green holds no image"),
        (no_classes, "holds no class folders"),
        (a_table_without_labels, r"has no column for the label .*; it has image: name it with --label-column"),
        (a_table_without_class_names, "column label: its labels are numbers without class names"),
        (a_table_that_lacks_a_class, "has no image of 1 of its 3 classes: dog"),
        (captions_without_a_column, "list.csv has no column for the label .*; it has image, caption"),
        (captions_with_a_gap, "list.csv, line 3: the label is empty"),
        (too_few_labels, "has 3 lines, too few for 2 of the 5 images .*the last is ILSVRC2012_val_00000005.JPEG"),
        (no_kit, "without classes: name the unpacked ILSVRC2012_devkit_t12"),
        (the_kit_of_another_year, "meta.mat is of ILSVRC2010; the validation images are those of ILSVRC2012"),
        (ground_truth_of_another_year, "it holds ILSVRC2011_validation_ground_truth.txt: another year's kit"),
        (ground_truth_beyond_the_classes, "must hold classes from 1 to 3"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change, sentence, folders):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        open_set(str(change(folders)))
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_files_of_the_kit_are_named(tmp_path):
    devkit = write_devkit(tmp_path / "kit", [1])
    (devkit / "data" / "meta.mat").write_bytes(b"not a MATLAB file")
    with pytest.raises(ValueError, match=r"meta.mat can't be read"):
        read_devkit(devkit)
    shutil.rmtree(devkit)
    devkit = write_devkit(devkit, [1])
    (devkit / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("one\ntwo\n", "utf-8")
    with pytest.raises(ValueError, match="must hold one number a line"):
        read_devkit(devkit)


def test_unreadable_images_are_counted_and_named(folders):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(buffer, "JPEG")
    (folders / "green" / "cut.jpg").write_bytes(buffer.getvalue()[:-600])
    (folders / "red" / "text.png").write_text("not an image", "utf-8")
    images = open_set(str(folders))
    with pytest.raises(ValueError, match=r"2 of 14 images of colours can't be read: green/cut.jpg \(.*red/text.png"):
        check_images(images)


def test_some_classes_are_told_apart_from_each_other(folders):
    images = open_set(str(folders))
    kept = images.of_classes(lambda name: name != images.classnames[1])
    assert kept.classnames == (images.classnames[0], *images.classnames[2:])
    labels = [images.classnames[i] for i in images.targets]
    own = [(label, name) for label, name in zip(labels, images.names, strict=True) if label != images.classnames[1]]
    assert [(kept.classnames[i], name) for i, name in zip(kept.targets, kept.names, strict=True)] == own
    assert [kept.read(i) for i in range(len(kept))] == [images.read(images.names.index(name)) for _, name in own]
    with pytest.raises(ValueError, match="has 1 of these classes, and two at least are needed"):
        images.of_classes(lambda name: name == images.classnames[1])


def test_labels_must_be_as_many_as_classes(folders):
    images = open_set(str(folders))
    assert images.renamed(["sky", "grass", "rose"]).classnames == ("sky", "grass", "rose")
    with pytest.raises(ValueError, match=r"has 3 classes \(blue sky, green, red\), but 2 labels were given"):
        images.renamed(["sky", "grass"])
