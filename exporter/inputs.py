"""What a run is read from: its files' hashes, and whether they are still the ones that were opened."""

from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import RunError
from exporter.outputs import folder_hash
from exporter.run import config_file
from exporter.run.seen import identity
from exporter.tokenizer import find_tokenizer_files
from exporter.tokenizer.made import is_made

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.run import Run


def hash_inputs(run: "Run", source: "Merged") -> dict[Path, str]:
    """The SHA-256 of each folder that a run is made of: the base's and each adapter's.

    RunError where a file is not the one that was opened.
    """
    hashes = {folder: folder_hash(sorted(files)) for folder, files in _files(run, source).items()}
    require_as_opened(run, source)
    return hashes


def require_as_opened(run: "Run", source: "Merged") -> None:
    """RunError where a file that the run is read from was changed, replaced, removed or added since it was opened."""
    seen = {file: one for some in (run.seen, *(adapter.seen for adapter in run.adapters)) for file, one in some.items()}
    files = set().union(*_files(run, source).values(), run.vision.processor if run.vision else ())
    changed = next((file for file in sorted(files) if identity(file) is None or identity(file) != seen.get(file)), None)
    if changed is not None:
        raise RunError(
            f"{changed}: changed while it was read, so what would be made is of no one state of the run; nothing was "
            "written. Run again when the training is done."
        )


def _files(run: "Run", source: "Merged") -> dict[Path, set[Path]]:
    """The files of the base and of each adapter, by folder."""
    inputs = {run.base: {*source.files(), config_file(run.base)}}
    for adapter in run.adapters:  # which may lie in the base's own folder
        inputs.setdefault(adapter.folder, set()).update({adapter.weights, adapter.folder / "adapter_config.json"})
    for folder, files in inputs.items():
        files.update(find_tokenizer_files(folder).values())
    # Tokenizer files from elsewhere, such as beside the checkpoints, belong to the run.
    own = run.adapters[0].folder if run.adapters else run.base
    inputs[own] |= {file for file in run.tokenizer_files.values() if not is_made(file)}.difference(*inputs.values())
    return inputs
