"""Tables and archives are read whole or refused with the place: nothing is swallowed, cut, doubled or guessed."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageColumn
from safetensors.torch import load_file

from clipsr_training._cli.evaluate import main as eval_main
from clipsr_training._cli.train import main as train_main
from clipsr_training.clip import load_clip
from clipsr_training.data import SetOptions, open_set, read_pairs
from clipsr_training.evaluation._probe import fit_probe
from tests.training.made_images import class_folders, png
from tests.training.test_clip_sources import encoded, picture, write_shard

PNG = png((0, 0, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images beside which tests write tables."""
    for i in range(3):
        (tmp_path / f"i{i}.png").write_bytes(PNG)
    return tmp_path


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_quotation_mark_between_tabs_is_a_character(folder):
    rows = 'filepath\ttitle\ni0.png\ta cat\ni1.png\t"unclosed quote\ni2.png\t"third" one\n'
    source = read_pairs(write(folder / "a.tsv", rows))
    assert source.phrases == ("a cat", '"unclosed quote', '"third" one')


def test_tabs_are_understood_whatever_the_file_is_called(folder):
    source = read_pairs(write(folder / "a.csv", "filepath\ttitle\ni0.png\ta cat, asleep\n"))
    assert source.phrases == ("a cat, asleep",)


def test_quoted_cells_of_csv_may_hold_commas_quotes_and_lines(folder):
    rows = 'filepath,title\ni0.png,"a ""big"", black\ncat"\n\ni1.png,a dog\n'
    assert read_pairs(write(folder / "a.csv", rows)).phrases == ('a "big", black\ncat', "a dog")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("filepath,title\ni0.png,a cat, on a mat\n", r"a\.csv, line 2: 3 cells, but the header has 2"),
        ("filepath,title\ni0.png,a cat\ni1.png\n", r"a\.csv, line 3: 1 cells, but the header has 2"),
        ('filepath,title\ni0.png,"a cat\ni1.png,x\n', r"a\.csv, line 3: unexpected end of data"),
        ('filepath,title\ni0.png,"a" cat\n', r"a\.csv, line 2: ',' expected after"),
        ("filepath,title\ni0.png,\n", r"a\.csv, line 2: the caption is empty"),
        ("filepath,title\n,a cat\n", r"a\.csv, line 2: the path is empty"),
        ("filepath,title,title\ni0.png,a,b\n", r"a\.csv has two columns title"),
        ("filepath,title\ni0.png," + "x" * 200_000 + "\n", r"a\.csv, line 2: field larger than field limit"),
        ("filepath,title\ni0.png,café\n".encode("latin-1"), r"a\.csv is not UTF-8 .*; save it as UTF-8"),
        ("filepath,title\ni0.png,cat\n".encode("utf-16"), r"a\.csv is not UTF-8 .*; save it as UTF-8"),
    ],
)
def test_what_is_wrong_in_a_table_is_said_with_its_line(content, sentence, folder):
    with pytest.raises(ValueError, match=sentence) as caught:
        read_pairs(write(folder / "a.csv", content))
    assert len(str(caught.value).splitlines()) == 1


def pairs_shard(path: Path, n: int = 6) -> Path:
    members = {
        f"{i}.{ending}": content for i in range(n) for ending, content in (("png", PNG), ("txt", b"word %d" % i))
    }
    return write_shard(path, members)


def test_an_archive_without_its_end_is_refused(tmp_path):
    whole = pairs_shard(tmp_path / "whole.tar")
    assert len(read_pairs(whole)) == 6
    with tarfile.open(whole) as archive:
        border = archive.getmembers()[4].offset
    for cut in (border, border + 512, border + 700):
        with pytest.raises(ValueError, match=r"cut\.tar (has no end of archive|is not an uncompressed tar file)"):
            read_pairs(write(tmp_path / "cut.tar", whole.read_bytes()[:cut]))
    with pytest.raises(ValueError, match=r"two\.tar holds more behind its end of archive"):
        read_pairs(write(tmp_path / "two.tar", whole.read_bytes() * 2))


def test_nothing_of_an_archive_is_left_out_in_silence(tmp_path):
    def shard(*members: tuple[str, bytes], link: bytes | None = None) -> Path:
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as archive:
            for name, content in members:
                write(tmp_path / "member", content)
                archive.add(tmp_path / "member", name)
            if link is not None:
                info = tarfile.TarInfo("9.png")
                info.type, info.linkname = link, "0.png"
                archive.addfile(info)
        return path

    pair = ("0.png", PNG), ("0.txt", b"first")
    with pytest.raises(ValueError, match=r"a\.tar: 0\.png comes twice"):
        read_pairs(shard(*pair, *pair))
    with pytest.raises(ValueError, match=r"a\.tar: the key 0 comes twice"):
        read_pairs(shard(*pair, ("1.png", PNG), ("1.txt", b"x"), *pair))
    for link in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        with pytest.raises(ValueError, match=r"a\.tar: 9\.png is a link"):
            read_pairs(shard(*pair, link=link))
    hidden = ("__MACOSX/._0.png", b"\0"), ("._0.png", b"\0")
    assert read_pairs(shard(*hidden, *pair)).phrases == ("first",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{not json", r"a\.tar: 0\.json is not JSON"),
        (b"[1, 2]", r"a\.tar: 0\.json holds no object but a list"),
        (b'{"caption": 7}', r"a\.tar: 0\.json: the caption is no text but of type int \(7\)"),
        (b'{"caption": {"raw": "a", "lang": "en"}}', r"the caption is no text but of type dict"),
        (b'{"caption": ["a", 7]}', r"the caption is no text but of type int"),
        (b'{"caption": [["a"]]}', r"the caption is no text but of type list"),
        (b'{"caption": []}', r"the caption is (empty|no text but of type list)"),
        (b'{"caption": " "}', r"a\.tar: 0\.json: the caption is empty"),
        (b'{"caption": null}', r"a\.tar: 0\.json: the caption is empty"),
        (b'{"caption": "\\ud800"}', r"the caption is no valid Unicode"),
        ("é".encode("latin-1"), r"a\.tar: 0\.json is not UTF-8"),
    ],
)
def test_captions_must_be_text(content, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        read_pairs(write_shard(tmp_path / "a.tar", {"0.png": PNG, "0.json": content}))


def test_lists_of_texts_are_several_captions(tmp_path):
    members = {"0.png": PNG, "0.json": b'{"caption": ["a", "b"]}', "1.png": PNG, "1.json": b'{"caption": "c"}'}
    assert read_pairs(write_shard(tmp_path / "a.tar", members)).texts == [(0, 1), (2,)]
    blank = {"0.png": PNG, "0.txt": b" \n"}
    with pytest.raises(ValueError, match=r"0\.txt: the caption is empty"):
        read_pairs(write_shard(tmp_path / "b.tar", blank))
    named = {"0.png": PNG, "0.json": b'{"caption": "a", "alt": "b"}'}
    write_shard(tmp_path / "c.tar", named)
    assert read_pairs(tmp_path / "c.tar", options=SetOptions(caption_column="alt")).phrases == ("b",)


def table(path: Path, **columns: object) -> Path:
    features = Features({"image": ImageColumn(), **{n: f for n, (f, _) in columns.items()}})  # pyright: ignore
    n = len(next(iter(columns.values()))[1])  # pyright: ignore
    rows = {"image": [{"bytes": PNG, "path": None}] * n, **{name: cells for name, (_, cells) in columns.items()}}  # pyright: ignore
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def test_captions_of_tables_must_be_text(tmp_path):
    as_dict = {"raw": Value("string"), "lang": Value("string")}
    path = table(tmp_path / "a.parquet", caption=(as_dict, [{"raw": "a", "lang": "en"}] * 2))
    with pytest.raises(ValueError, match=r"a\.parquet, row 0: the caption is no text but of type dict"):
        read_pairs(path)
    path = table(tmp_path / "b.parquet", caption=(Value("int64"), [1, 2]))
    with pytest.raises(ValueError, match=r"b\.parquet, row 0: the caption is no text but of type int"):
        read_pairs(path)


def test_labels_of_tables_may_be_text(tmp_path):
    path = table(tmp_path / "a.parquet", label=(Value("string"), ["polar_bear", "cat", "polar bear"]))
    images = open_set(str(path))
    assert (images.classnames, images.targets.tolist()) == (("cat", "polar bear"), [1, 0, 1])
    path = table(tmp_path / "b.parquet", label=(Value("string"), ["cat", None]))
    with pytest.raises(ValueError, match=r"b\.parquet, row 1: the label is empty"):
        open_set(str(path))
    path = table(tmp_path / "c.parquet", label=(Value("float32"), [0.5, 1.0]))
    with pytest.raises(ValueError, match="the column label holds neither text nor integers but float32"):
        open_set(str(path))


def numbers_in_a_table(folder: Path) -> Path:
    return table(folder / "a.parquet", label=(Value("int64"), [1, 0, 1]))


def numbers_in_a_shard(folder: Path) -> Path:
    members = {f"{i}.{e}": c for i in range(3) for e, c in (("png", PNG), ("cls", b"%d\n" % (i != 1)))}
    return write_shard(folder / "a.tar", members)


@pytest.mark.parametrize("make", [numbers_in_a_table, numbers_in_a_shard])
def test_labels_that_are_numbers_get_names(make: Callable[[Path], Path], tmp_path):
    path = make(tmp_path)
    for open_it in (open_set, lambda spec, options=None: read_pairs(spec, options=options)):
        with pytest.raises(ValueError, match="numbers without class names; name them in order with --labels"):
            open_it(str(path))
        with pytest.raises(ValueError, match="the image has no known class: 1 of 1"):
            open_it(str(path), SetOptions(labels=("a",)))
    images = open_set(str(path), SetOptions(labels=("red fox", "cat")))
    assert (images.classnames, images.targets.tolist()) == (("red fox", "cat"), [1, 0, 1])
    assert read_pairs(path, options=SetOptions(labels=("red fox", "cat"))).texts == [(1,), (0,), (1,)]


def test_classes_of_shards_may_be_text(tmp_path):
    members = {"0.png": PNG, "0.cls": b"polar_bear", "1.png": PNG, "1.cls": b"cat\n"}
    images = open_set(str(write_shard(tmp_path / "a.tar", members)))
    assert (images.classnames, images.targets.tolist()) == (("cat", "polar bear"), [1, 0])
    with pytest.raises(ValueError, match=r"2 has no \.cls file with its class"):
        open_set(str(write_shard(tmp_path / "b.tar", {**members, "2.png": PNG, "2.txt": b"x"})))


def test_two_ways_to_write_a_class_are_one(tmp_path):
    images = open_set(str(class_folders(tmp_path / "a", ("polar_bear", "cat", "polar bear"), per_class=2)))
    assert (images.classnames, np.bincount(images.targets).tolist()) == (("cat", "polar bear"), [2, 4])
    path = table(tmp_path / "a.parquet", label=(ClassLabel(names=["polar_bear", "cat", "polar bear"]), [0, 1, 2]))
    assert (open_set(str(path)).classnames, open_set(str(path)).targets.tolist()) == (("polar bear", "cat"), [0, 1, 0])
    for i in range(3):
        write(tmp_path / f"{i}.png", PNG)
    path = write(tmp_path / "a.csv", "path,label\n0.png,polar_bear\n1.png,cat\n2.png,polar bear\n")
    assert open_set(str(path)).targets.tolist() == [1, 0, 1]


def test_splits_are_not_taken_for_classes(tmp_path):
    class_folders(tmp_path / "imagefolder" / "train", ("cat", "dog"))
    class_folders(tmp_path / "imagefolder" / "val", ("cat", "dog"), per_class=2)
    folder = tmp_path / "imagefolder"
    with pytest.raises(ValueError, match="imagefolder has no split 'test'; choose with --split: train, val"):
        open_set(str(folder))
    images = open_set(str(folder), SetOptions(split="val"))
    assert (images.name, images.classnames, len(images)) == ("imagefolder", ("cat", "dog"), 4)
    assert read_pairs(folder).phrases == ("cat", "dog")
    # A class that is called so is one beside others.
    assert open_set(str(class_folders(tmp_path / "vehicles", ("bus", "train")))).classnames == ("bus", "train")


def test_a_copied_repository_of_the_hub_is_opened(tmp_path):
    (tmp_path / "pets" / "data").mkdir(parents=True)
    for split, n in (("train", 3), ("test", 2)):
        table(
            tmp_path / "pets" / "data" / f"{split}-00000-of-00001.parquet", label=(ClassLabel(names=["cat"]), [0] * n)
        )
    (tmp_path / "pets" / "README.md").write_text("# pets\n")
    images = open_set(str(tmp_path / "pets"))
    assert (images.name, images.classnames, len(images)) == ("pets", ("cat",), 2)
    assert len(read_pairs(tmp_path / "pets")) == 3
    with pytest.raises(ValueError, match=r"pets can't be read as a repository of the hub: .*val"):
        open_set(str(tmp_path / "pets"), SetOptions(split="val"))


def test_a_cut_table_is_named(tmp_path):
    path = table(tmp_path / "a.parquet", label=(ClassLabel(names=["cat"]), [0] * 50))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.parquet can't be read as Parquet: .") as caught:
        open_set(str(path))
    assert len(str(caught.value).splitlines()) == 1
    (tmp_path / "saved").mkdir()
    write(tmp_path / "saved" / "dataset_info.json", "{")
    with pytest.raises(ValueError, match=r"saved can't be read as a folder that datasets saved: ."):
        open_set(str(tmp_path / "saved"))


def test_images_that_are_null_are_refused_with_their_row(tmp_path):
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["cat"])})
    cells = [{"bytes": PNG, "path": None}, None, None]
    Dataset.from_dict({"image": cells, "label": [0] * 3}, features=features).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: there is no image \(null\), as in 2 rows in all"):
        open_set(str(tmp_path / "a.parquet"))
    Dataset.from_dict({"image": [[1], [2]], "label": ["a", "b"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: the column image holds no images"):
        open_set(str(tmp_path / "b.parquet"))


def test_labels_of_captions_are_refused(folder):
    path = write(folder / "a.csv", "path,caption\ni0.png,a cat\n")
    with pytest.raises(ValueError, match=r"a\.csv has captions; --labels names classes"):
        read_pairs(path, options=SetOptions(labels=("cat",)))


@pytest.mark.filterwarnings("default:few. of fewer than ten captioned images:UserWarning")
def test_fewer_than_ten_captions_train_without_validation(tmp_path, monkeypatch, repo_root, capsys):
    monkeypatch.chdir(repo_root)
    members = {f"{i}.{e}": c for i in range(4) for e, c in (("png", encoded(picture(i))), ("txt", b"word %d" % i))}
    path = write_shard(tmp_path / "few.tar", members)
    command = ["clip", "--data", str(path), "--epochs", "1", "--batch-size", "2", "--output", str(tmp_path / "run")]
    assert train_main(command) == 0
    assert load_clip(tmp_path / "run" / "clip").image_size_px == 64
    assert load_file(tmp_path / "run" / "clip" / "open_clip_model.safetensors")
    expected = "clipsr-train: WARNING: few: of fewer than ten captioned images, none is kept for validation\n"
    assert capsys.readouterr().err == expected


def test_a_probe_needs_two_classes():
    with pytest.raises(ValueError, match="the training images are of one class only"):
        fit_probe(np.eye(6), np.zeros(6, dtype=int), np.eye(6), np.zeros(6, dtype=int), validation_share=0.5, seed=0)


def test_numbers_are_named_on_the_command_line(tmp_path, monkeypatch, repo_root):
    monkeypatch.chdir(repo_root)
    path = numbers_in_a_shard(tmp_path)
    command = ["zeroshot", "--data", str(path), "--route", "native", "--output", str(tmp_path / "report")]
    assert eval_main(command) == 1
    assert eval_main([*command, "--labels", "fox,cat"]) == 0
    assert list(json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))["per_class"]) == ["fox", "cat"]


@pytest.mark.parametrize(
    ("header", "options", "phrases"),
    [
        ("image,label,other", {}, ("cat", "dog")),
        ("image,label,caption", {}, ("a cat", "a dog")),
        ("image,label,caption", {"label_column": "label"}, ("cat", "dog")),
        ("image,label,caption", {"caption_column": "caption"}, ("a cat", "a dog")),
        ("image,kind,caption", {"label_column": "kind"}, ("cat", "dog")),
    ],
)
def test_a_csv_file_holds_captions_or_labels(folder, header, options, phrases):
    table = write(folder / "table.csv", f"{header}\ni0.png,cat,a cat\ni1.png,dog,a dog\n")
    source = read_pairs(table, options=SetOptions(split="train", **options))
    assert source.phrases == phrases
    assert source.has_classes == (phrases == ("cat", "dog"))
