"""Numbers of adapter_config.json that are the size of nothing: refused before PEFT allocates by them, or counts."""

import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapters import one_thread
from exported import COMMAND, change_json
from peft_cases import CASES, adapters, bases, opened, stored, train

from exporter.errors import MergeError

__all__ = ["adapters", "bases", "one_thread"]
MOST_MEMORY = 200 << 10
"""KiB that a refusal may take: PEFT's own modules are imported with the first."""
MOST_SECONDS = 20

BEYOND: dict[str, list[dict[str, Any]]] = {
    "vblora": [{"num_vectors": 10**12}, {"vector_length": 10**12}, {"topk": 10**12}],
    "vera": [{"r": 10**12}],
    "oft": [{"oft_block_size": 10**12}, {"oft_block_size": 0, "r": 10**12}, {"num_cayley_neumann_terms": 10**9}],
    "boft": [{"boft_block_size": 10**12}, {"boft_n_butterfly_factor": 10**12}],
    "randlora": [{"r": 10**12}],
    "loha": [{"r": 10**12}, {"rank_pattern": {"layers.1.self_attn.q_proj": 10**12}}],
    "lokr": [{"decompose_factor": -(10**12)}],
    "peanut": [{"depth": 10**9}],
    "fourierft": [{"n_frequency": 10**12}, {"n_frequency_pattern": {"v_proj": 10**12}}],
}
"""Numbers larger than any tensor: by the method's case."""
OTHERS: dict[str, list[dict[str, Any]]] = {
    "adalora": [{"init_r": 9000}],
    "adalora-ranks": [{"init_r": 9000}],
    "c3a": [{"block_size": 1}],
    "gralora": [{"r": 9000}],
    "hra": [{"r": 9000}],
    "loha": [{"r": 9000}, {"rank_pattern": {"layers.1.self_attn.k_proj": 4}}],
    "oft": [{"oft_block_size": 9000}],
    "osf": [{"effective_rank": 3}],
    "randlora-redrawn": [{"r": 9000}],
    "tinylora": [{"u": 9000}],
    "unilora": [{"r": 9000}, {"theta_d_length": 9000}],
    "vblora": [{"num_vectors": 9000}, {"r": 9000}, {"topk": 17}],
    "vera-redrawn": [{"r": 9000}],
    "waveft": [{"n_frequency": 3000}],
}
"""Numbers that a weight may have, but other ones than the file's tensors."""


def said(adapter: Path, base: Path, fields: dict[str, Any]) -> str:
    """What an adapter with such fields is refused with, soon, and in little memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(MergeError) as error:
        opened(stored(adapter, **fields), base)
    assert time.monotonic() - start < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    return str(error.value)


@pytest.mark.parametrize(("name", "fields"), [(name, one) for name, many in BEYOND.items() for one in many])
def test_a_number_beyond_all_tensors_is_refused_by_name(
    name: str, fields: dict[str, Any], bases: dict[str, Path], adapters: Callable[[str], Path]
) -> None:
    message = said(adapters(name), bases[CASES[name].base], fields)
    assert f"{list(fields)[-1]} " in message
    assert "in adapter_config.json, expected at most" in message


@pytest.mark.parametrize(("name", "fields"), [(name, one) for name, many in OTHERS.items() for one in many])
def test_a_number_of_another_run_is_refused_by_the_tensors(
    name: str, fields: dict[str, Any], bases: dict[str, Path], adapters: Callable[[str], Path]
) -> None:
    message = said(adapters(name), bases[CASES[name].base], fields)
    assert "adapter_model.safetensors: " in message
    assert "expected" in message
    assert "different runs" in message or "again" in message


def test_the_command_ends_with_status_2(bases: dict[str, Path], tmp_path: Path) -> None:
    run = train(CASES["vblora"], bases["llama"], tmp_path / "run")
    change_json(run / "adapter_config.json", num_vectors=10**12)
    command = [*COMMAND, "plan", str(run), "--base", str(bases["llama"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert not done.stdout
    assert "num_vectors is 1000000000000 in adapter_config.json, expected at most 10240" in done.stderr
    assert "Traceback" not in done.stderr
