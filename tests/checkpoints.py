"""Merged checkpoints: written from a run, read back by transformers, and what PEFT makes of the same run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from adapters import adapted, load, quiet

from exporter.checkpoint import Wish, with_changed_tower, write_checkpoint
from exporter.merge import Merged
from exporter.run import Run, open_run
from exporter.source import open_source


def write(adapter: Path, base: Path, out: Path, **wish: Any) -> dict[str, Any]:  # noqa: ANN401  (fields of Wish)
    run, source = with_changed_tower(*opened(adapter, base))
    return write_checkpoint(run, source, out, Wish(**wish), progress=lambda *_: None)


def opened(adapter: Path, base: Path) -> tuple[Run, Merged]:
    run = open_run(adapter, base=str(base))
    return run, open_source(run)


def state(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """What transformers reads of a folder; it must find all that it looks for, and nothing else."""
    import transformers  # noqa: PLC0415  (seconds to import)

    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, architecture)
    with quiet():
        model, told = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(told.values())
    tensors: dict[str, torch.Tensor] = model.state_dict()
    return tensors


def same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    """Whether all are equal, bit for bit, once the expected ones are rounded."""
    assert found.keys() == expected.keys()
    return all(tensor.equal(expected[name].to(tensor.dtype)) for name, tensor in found.items())


def of_peft(base: Path, adapter: Path, **loading: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401  (options of load)
    with quiet():
        tensors: dict[str, torch.Tensor] = adapted(load(base, **loading), adapter).merge_and_unload().state_dict()
    return tensors
