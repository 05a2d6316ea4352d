"""Distillation of the text tower, from phrases to the folder with its weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from open_clip.tokenizer import HFTokenizer
from transformers import PreTrainedTokenizerFast

from clipsr_training import prompts
from clipsr_training._files import make_output_folder, to_json, write_atomically, write_weights
from clipsr_training._finite import describe_not_finite
from clipsr_training._fit import FitOptions, fit, open_run
from clipsr_training.clip._checkpoint import write_taught_names
from clipsr_training.clip._classifier import TEXT_CONFIG_NAME, TEXT_WEIGHTS_NAME
from clipsr_training.text import _module
from clipsr_training.text._phrases import (
    TARGET_PROMPT,
    TEMPLATES,
    Phrase,
    PhraseDraws,
    Split,
    read_phrases,
    split_phrases,
)
from clipsr_training.text._recipe import TextRecipe
from clipsr_training.text._targets import Projection, embed_targets
from clipsr_training.text._teachers import Teacher, english_words, load_teachers, multilingual_tokenizer
from clipsr_training.text._tokenizer import cut_tokenizer, read_pieces
from clipsr_training.text._visual import VisualNames, VisualTargets


def train_text(recipe: TextRecipe, options: FitOptions, named: Sequence[VisualNames] = ()) -> Path:
    """Distil a text tower from the teachers.

    Args:
        recipe: hyperparameters.
        options: where and how to run; see `FitOptions`.
        named: what models of images say of some names, to extend the targets by.

    Returns:
        The folder `text` in the output folder: weights under the names that OpenCLIP has for the tower of a
        `CustomTextCLIP`, its `text_cfg`, the tokenizer's files, and `agreement.json`.

    Raises:
        TeacherError: a teacher is missing, of another version or damaged.
        ValueError: training diverged, or the settings fit nothing.
        OSError: a file can't be written.
    """
    teachers = load_teachers()
    with open_run(options):
        options.seed_everything()
        phrases = read_phrases(hold_out=recipe.hold_out)
        known = [own.without_held_out() if recipe.hold_out else own for own in named]
        return _Run(recipe, options, teachers, phrases, known).train()


class _Run:
    """One distillation: its phrases, targets and tokenizer."""

    def __init__(
        self,
        recipe: TextRecipe,
        options: FitOptions,
        teachers: Sequence[Teacher],
        phrases: Sequence[Phrase],
        named: Sequence[VisualNames],
    ) -> None:
        self.recipe = recipe
        self.options = options
        self.teachers = teachers
        self.phrases = phrases
        self.named = named
        self.split: Split = split_phrases(phrases, recipe.kept_off, recipe.max_kept_off, options.seed)
        held_out = [t for t in prompts.read_things() if prompts.is_held_out(t.names["en"])] if recipe.hold_out else []
        self.measured_texts = {"kept_off": [(phrases[i].text, phrases[i].target) for i in self.split.kept_off]}
        for language in prompts.LANGUAGES if held_out else ():
            self.measured_texts[f"held_out_{language}"] = [
                (thing.names[language], prompts.expand(TARGET_PROMPT, thing.names["en"])) for thing in held_out
            ]

    def train(self) -> Path:
        """Embed the targets, fit the tower and write it."""
        read = list(dict.fromkeys(p.target for p in self.phrases))
        measured_only = [t for own in self.measured_texts.values() for _, t in own]
        texts = list(dict.fromkeys(read + measured_only))
        extend = VisualTargets(self.named, self._ask, partial(prompts.expand, TARGET_PROMPT))
        answers = extend(self._ask(texts))
        projection = Projection.fit([part[: len(read)] for part in answers], self.recipe.embed_dim)
        vectors = projection(answers)
        rows = {text: i for i, text in enumerate(texts)}
        drawn = self._texts_to_draw()
        tokenizer = cut_tokenizer(multilingual_tokenizer(), drawn, self.recipe.vocab_size, english_words())
        folder = self.options.output / "text"
        make_output_folder(folder)
        tokenizer.save_pretrained(str(folder))
        # What training reads is what will be read: OpenCLIP's own wrapper around the files.
        tokenize = HFTokenizer(str(folder), context_length=self.recipe.context_length)
        names = {i for i in self.split.train["name"] if self.phrases[i].language == "en"}
        taught = vectors[sorted({rows[self.phrases[i].target] for i in names})]
        measured = {
            group: _module.Measured(
                tokens=tokenize([text for text, _ in own]),
                targets=torch.from_numpy(vectors[[rows[target] for _, target in own]]),
                names=torch.from_numpy(taught),
            )
            for group, own in self.measured_texts.items()
        }
        text_cfg = self.recipe.text_cfg(len(tokenizer))
        tower = _module.build_tower(text_cfg, self.recipe.embed_dim)
        pieces = read_pieces(tokenizer)
        # What no phrase shows is not asked either: a twin is to know no more of such words than a caller's are known.
        shown = {i for ids in tokenizer(drawn).input_ids for i in ids}
        asked = {i: piece for i, piece in pieces.items() if i in shown}
        _module.begin_with_pieces(tower, list(asked), projection(extend(self._ask(list(asked.values())))))
        module = _module.TextModule(
            tower,
            self.recipe,
            self._draws,
            vectors[[rows[p.target] for p in self.phrases]],
            tokenize,
            measured,
        )
        epochs = math.ceil(self.recipe.steps / _module.STEPS_PER_SEGMENT)
        fit(module, self.options, settings=self._settings(vectors, tokenizer), max_epochs=epochs)
        if module.trainer.is_global_zero:
            known = self._look_up(pieces)
            own, others = (
                {i: row for i, row in known.items() if (i in shown) == is_shown} for is_shown in (True, False)
            )
            _module.place_other_pieces(tower, own, others)
            self._write(module, text_cfg, folder)
        return folder

    def _draws(self, n_draws: int, first: int) -> PhraseDraws:
        return PhraseDraws(self.phrases, self.split, seed=self.options.seed, n_draws=n_draws, first=first)

    def _ask(self, texts: Sequence[str]) -> list[np.ndarray]:
        targets = self.options.output / "targets"
        make_output_folder(targets)
        # The teachers are no better at more digits than the tower is trained with, and twice as slow.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.options.precision.startswith("bf16")):
            return embed_targets(self.teachers, texts, targets)

    def _look_up(self, pieces: Mapping[int, str]) -> dict[int, np.ndarray]:
        """Return [E] by piece, what the teachers' own tables have for it."""
        parts = [teacher.look_up(list(pieces.values())) for teacher in self.teachers]
        rows = np.concatenate([(part - part.mean(axis=0)) / part.std() for part in parts], axis=1)
        return dict(zip(pieces, rows.astype(np.float32), strict=True))

    def _texts_to_draw(self) -> list[str]:
        drawn = sorted(int(i) for own in self.split.train.values() for i in own)
        templates = [template for own in TEMPLATES.values() for template in own]
        return [self.phrases[i].text for i in drawn] + [prompts.expand(template, "") for template in templates]

    def _settings(self, vectors: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
        """Return everything that trained weights depend on."""
        read = "\0".join(f"{p.language} {p.text}" for p in self.phrases)
        return {
            "phrases": hashlib.sha256(read.encode()).hexdigest(),
            "targets": hashlib.sha256(vectors.tobytes()).hexdigest(),
            "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "teachers": {teacher.name: teacher.sha256 for teacher in self.teachers},
            **asdict(self.recipe),
        }

    def _write(self, module: _module.TextModule, text_cfg: dict[str, object], folder: Path) -> None:
        state = {name: value.detach().cpu().half().contiguous() for name, value in module.tower.state_dict().items()}
        if (fault := describe_not_finite(state)) is not None:
            raise ValueError(f"{folder} is not written: {fault}")
        config = {"embed_dim": self.recipe.embed_dim, "text_cfg": text_cfg}
        agreement = {
            group: {"texts": len(own.tokens), "names": len(own.names), **module.agreement(own)}
            for group, own in module.measured.items()
        }
        write_atomically(folder / TEXT_CONFIG_NAME, to_json(config, indent=2).encode())
        drawn = sorted(int(i) for i in self.split.train["name"])
        write_taught_names((self.phrases[i].text for i in drawn), folder)
        write_atomically(folder / "agreement.json", to_json(agreement, indent=2).encode())
        write_weights(folder / TEXT_WEIGHTS_NAME, state, {"format": "pt"})
