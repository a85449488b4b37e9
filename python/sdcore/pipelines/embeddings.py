"""Textual inversion on a pipeline: `load_textual_inversion`, as in diffusers, and a folder of words
in which a file's name is its word, as in A1111's web UI and stable-diffusion.cpp."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from sdcore.adapters.lora import LoraFile
from sdcore.arguments import as_path
from sdcore.errors import FileError, InvalidArgumentError, SDCoreError
from sdcore.locks import ForkableLock
from sdcore.models.clip import CLIPTextModel
from sdcore.pipelines.adapters import LoraMixin
from sdcore.pipelines.loading import PathLike, within
from sdcore.prompts import textual_inversion
from sdcore.prompts.words import Word, Words, key

__all__ = ["EmbeddingsMixin"]

log = logging.getLogger("sdcore")


class EmbeddingsMixin(LoraMixin):
    """What DiffusionPipeline can do with textual inversions.

    `embedding_dir` is a folder whose files stand for themselves in a prompt, by their names without
    ending; they are read when they are met.
    """

    embedding_dir: PathLike | None = None

    def _begin_words(self, title: str) -> None:
        self._title = title
        self._words: Mapping[str, Word] = {}
        self._met: dict[Path, Word | None] = {}  # words of the folder, and files that have none
        self._of_loras: WeakKeyDictionary[LoraFile, tuple[Word, ...]] = WeakKeyDictionary()
        self._words_lock = ForkableLock()

    def load_textual_inversion(
        self,
        path: PathLike,
        token: str | None = None,
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
    ) -> None:
        """Makes a word of a file, `token` or what the file calls it, that prompts may hold.

        `path` is a .pt, .bin, .safetensors or picture of A1111's web UI, diffusers or kohya's
        trainers, a folder with diffusers' learned_embeds, or a folder that the file `weight_name`
        is in, in `subfolder` of it. The text encoders' weights stay as they are. Raises FileError,
        CheckpointError (also for another family's embedding), and InvalidArgumentError where the
        word is there already.
        """
        path = Path(within(path, subfolder, weight_name, "[embedding] a textual inversion"))
        words = textual_inversion.read(path, self._widths(), self._title, token)
        with self._words_lock:
            for word in words:
                if key(word.name) in self._words:
                    raise InvalidArgumentError(
                        f"[embedding] there is a word '{word.name}' already: give another token, "
                        "or unload_textual_inversion first"
                    )
            self._words = {**self._words, **{key(word.name): word for word in words}}

    def unload_textual_inversion(self, tokens: str | Sequence[str] | None = None) -> None:
        """Forgets these words, or all."""
        with self._words_lock:
            names = [tokens] if isinstance(tokens, str) else tokens
            gone = set(self._words) if names is None else {key(name) for name in names}
            if unknown := gone - self._words.keys():
                has = ", ".join(word.name for word in self._words.values()) or "none"
                raise InvalidArgumentError(
                    f"[embedding] there is no word '{unknown.pop()}'; loaded are: {has}"
                )
            self._words = {name: word for name, word in self._words.items() if name not in gone}

    @property
    def words(self) -> Words:
        """All that prompts may hold: those that are loaded, those of the LoRAs at work, and those
        of `embedding_dir`."""
        found: dict[str, Callable[[], Word | None]] = {}
        if self.embedding_dir is not None:
            for path in _files(Path(as_path(self.embedding_dir, "[embedding] embedding_dir"))):
                found.setdefault(key(path.stem), partial(self._in_folder, path))
        for word in (*self._with_loras(), *self._words.values()):
            found[key(word.name)] = partial(_itself, word)
        return found

    def _widths(self) -> set[int]:
        encoders = (getattr(self, name, None) for name in ("text_encoder", "text_encoder_2"))
        widths = {e.config.hidden_size for e in encoders if isinstance(e, CLIPTextModel)}
        if not widths:
            raise InvalidArgumentError(
                f"[embedding] {self._title} is told prompts by no CLIP text encoder, which textual "
                "inversions are made for"
            )
        return widths

    def _with_loras(self) -> Iterator[Word]:
        """The words in the files of the LoRAs at work."""
        for file in self._adapters.files().values():
            if file not in self._of_loras:
                self._of_loras.setdefault(file, tuple(self._bundled(file)))
            yield from self._of_loras[file]

    def _bundled(self, file: LoraFile) -> Iterator[Word]:
        for name, tensors in file.bundled.items():
            try:
                (parts,) = textual_inversion.by_word(tensors, name, name).values()
                yield textual_inversion.make_word(
                    name, parts, self._widths(), self._title, file.path
                )
            except SDCoreError as error:
                log.warning("%s: going on without this word", error)

    def _in_folder(self, path: Path) -> Word | None:
        """The word of a file; None with a warning where it has none for this model."""
        if path not in self._met:
            word = None
            try:
                (word,) = textual_inversion.read(path, self._widths(), self._title, path.stem)
            except SDCoreError as error:
                log.warning("%s: going on with the letters of its name", error)
            self._met.setdefault(path, word)  # the same object for all who ask
        return self._met[path]


def _itself(word: Word) -> Word:
    return word


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileError(f"[embedding] no such folder: '{folder}'")
    suffixes = textual_inversion.SUFFIXES
    found = [path for path in folder.rglob("*") if path.suffix.lower() in suffixes]
    return sorted(found, key=lambda path: (suffixes.index(path.suffix.lower()), path))
