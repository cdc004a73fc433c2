"""A run's finished weights as a merged Hugging Face checkpoint: written by slices, proved, then named."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.checkpoint.companions import companions
from exporter.checkpoint.plan import Shard, base_files, in_shards, index, lay_out
from exporter.checkpoint.prove import prove
from exporter.checkpoint.record import RECORD, licences, record
from exporter.checkpoint.write import Reading, write_shards, write_text
from exporter.errors import OutputError, SourceError
from exporter.inputs import require_as_opened
from exporter.outputs import made_folder, replaced_when_done, require_files, require_space, scratch_folder
from exporter.run import with_tower
from exporter.source import open_source
from exporter.source.files import open_model
from exporter.source.quantized import Dequantized

if TYPE_CHECKING:
    import torch

    from exporter.merge import Merged
    from exporter.run import Run

__all__ = ["Wish", "with_changed_tower", "write_checkpoint"]

INDEX = "model.safetensors.index.json"
Progress = Callable[[int, int], None]
Hashes = Callable[[], Mapping[Path, str]]
SHARD_BYTES = 5_000_000_000
TAKEN = (
    *("*.safetensors", "*.bin", "*.index.json", "adapter_config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "tokenizer.model*", "tekken.json", "*.tiktoken", "chat_template.jinja", "chat_template.json"),
    *("additional_chat_templates/*.jinja", "preprocessor_config.json", "processor_config.json"),
    "video_preprocessor_config.json",
)
"""What readers of a checkpoint take where it is there: it must not lie beside a merged one that has no such file."""


@dataclass(frozen=True)
class Wish:
    """How a merged checkpoint is wanted."""

    dtype: str = "bf16"
    """``f32``, ``f16`` or ``bf16``."""
    overwrite: bool = False
    shard_bytes: int = SHARD_BYTES
    """The most data in one file, of more than one tensor."""
    scratch: Path | None = None


def write_checkpoint(
    run: "Run", source: "Merged", out: Path, wish: Wish = Wish(), *, progress: Progress, hashes: Hashes = dict
) -> dict[str, Any]:
    """Write a run's finished weights as a Hugging Face checkpoint; it appears whole and proved, or not at all.

    Args:
        run: the run.
        source: its finished weights.
        out: the folder.
        wish: how it is wanted.
        progress: called with the bytes written, and all of them.
        hashes: gives the SHA-256 of the folders that the run is read from, for the record of the merge.

    Returns:
        Plain values: ``bytes`` are those of the weights' files, ``compared`` is how many of the ``weights`` were read
        back (their first and last slice), ``not_copied`` names files of the base's licence that are no text.

    Raises:
        MergeError, WeightError: the adapter, or a weight, is of what cannot be written.
        RunError: a file that the run is read from was changed meanwhile.
        OutputError: the folder holds such files, or another model, or cannot be written to.
        ProofError: what was written differs from what was meant.
    """
    tensors = lay_out(run, source, wish.dtype)
    shards = in_shards(tensors, wish.shard_bytes)
    texts, not_copied = _texts(run, source, wish, shards)
    folder = out.absolute()
    files = [folder / name for name in (*(shard.file for shard in shards), *texts, RECORD)]
    size, head = sum(shard.bytes for shard in shards), "tied" if source.tied else "of its own"
    made = {"dtype": wish.dtype, "head": head, "tensors": len(tensors), "bytes": size, "not_copied": list(not_copied)}
    with _ready(run, files, size + sum(map(len, texts.values())), wish) as (partial, scratch):
        inputs = hashes()
        write_shards(shards, partial[: len(shards)], _reading(run, source), progress)
        written = (*texts.values(), record(run, source, made, inputs))  # which holds what reading the rows told
        for file, text in zip(partial[len(shards) :], written, strict=True):
            write_text(file, text)
        compared = prove(_as_named(scratch, folder, files, partial), tensors, run, source)
        require_as_opened(run, source)
    made |= {"compared": compared, "weights": len({part.weight for tensor in tensors for part in tensor.parts})}
    return {"folder": str(folder), "files": [file.relative_to(folder).as_posix() for file in files], **made}


def with_changed_tower(run: "Run", source: "Merged") -> tuple["Run", "Merged"]:
    """A run opened again with its vision tower, for a merge, where an adapter changes that and its names are known."""
    if source.changes.left_out:
        seeing = with_tower(run)
        with suppress(SourceError):  # a tower of another version, which stays left out
            return seeing, open_source(seeing)
    return run, source


def _texts(
    run: "Run", source: "Merged", wish: Wish, shards: Sequence[Shard]
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """What stands beside the weights, by name, but the record; the names of what is not copied."""
    terms, others = licences(run.base)
    listed = {INDEX: index(shards)} if len(shards) > 1 else {}
    return terms | companions(run, source, wish.dtype) | listed, others


@contextmanager
def _ready(run: "Run", files: Sequence[Path], size: int, wish: Wish) -> Iterator[tuple[list[Path], Path]]:
    """The partial files to write, and a scratch folder; the files get their names when the block ends."""
    folder = files[0].parent
    _require_apart(folder, run)
    with made_folder(folder), scratch_folder(wish.scratch or folder) as scratch, _inner_folders(files):
        require_files(files)
        _require_no_other(folder, files)
        require_space(folder, size)
        with replaced_when_done(files, overwrite=wish.overwrite) as partial:
            yield partial, scratch


def _reading(run: "Run", source: "Merged") -> Reading:
    """Where rows come from; those that are copied in the type they are stored in."""
    files = base_files(run)
    words = files.words if isinstance(files, Dequantized) else ()
    raw = open_model(run.base)

    def stored(name: str, start: int, stop: int) -> "torch.Tensor":
        if files.tensors[name].dtype in words:
            return files.read(name, (slice(start, stop),))
        return raw.take(name, (slice(start, stop),) if raw.tensors[name].shape else ())

    return Reading(source.read, stored)


def _require_apart(folder: Path, run: "Run") -> None:
    """OutputError where the output is a folder that the run is read from."""
    read = {run.base, run.folder, *(adapter.folder for adapter in run.adapters)}
    if any(place.exists() and folder.exists() and place.samefile(folder) for place in read):
        raise OutputError(f"{folder}: the run is read from this folder. Give another --out.")


def _require_no_other(folder: Path, files: Sequence[Path]) -> None:
    """OutputError where the folder holds what is none of the files, and readers would take it."""
    others = sorted({found for pattern in TAKEN for found in folder.glob(pattern)} - set(files))
    if others:
        raise OutputError(
            f"{others[0]}: is of another model or adapter{f', and {len(others) - 1} more' if others[1:] else ''}; "
            "readers would take it for a part of the merged one, which has no such file. Move it away, or give another "
            "--out."
        )


@contextmanager
def _inner_folders(files: Sequence[Path]) -> Iterator[None]:
    """The folders of files within the output folder, made; those that stay empty are removed again."""
    new = {file.parent for file in files if not file.parent.exists()}
    for folder in new:
        folder.mkdir()
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _as_named(scratch: Path, folder: Path, files: Sequence[Path], partial: Sequence[Path]) -> Path:
    """A folder in which partial files have their final names: links to them."""
    for file, whole in zip(files, partial, strict=True):
        link = scratch / file.relative_to(folder)
        try:
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(whole)
        except OSError as error:
            raise OutputError(f"{link}: cannot be linked ({error.strerror}). Give another --scratch.") from error
    return scratch
