"""The tiny models are what they say: recorded, the same each time, and whole in the eyes of transformers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from sentencepiece import SentencePieceProcessor
from tiny import GOLDEN, TINY, fingerprint, golden, make, recorded, weights

LOADED = [name for name, tiny in TINY.items() if tiny.loads and tiny.forward is None]
SPM = [name for name, tiny in TINY.items() if tiny.tokenizer.startswith(("spm", "gemma"))]
TEXTS = ("the that with 12345 ing's", "  hello\n\nwörld 中文字 🚀 the", "this is\tthe ...", " ", "")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Progress bars and advice of transformers are not ours to test."""
    from transformers.utils import logging  # noqa: PLC0415

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(level)


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    import transformers  # noqa: PLC0415

    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    return model, info


def test_every_tiny_model_has_golden_values_and_nothing_else_has() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(TINY)
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 3_000_000


@pytest.mark.parametrize("name", TINY)
def test_golden_values_are_of_these_weights(name: str) -> None:
    own = recorded(name)["source"]["sha256"]
    assert own == fingerprint(weights(name)) == golden(name)["source"]["sha256"]


def test_golden_values_that_were_never_made_say_how_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no golden values of llama: python tests/reference/make_golden\.py"):
        golden("llama", tmp_path)


@pytest.mark.parametrize("name", TINY)
def test_two_makes_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    one, two = make(name, tmp_path / "one"), make(name, tmp_path / "two")
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in two.iterdir())
    assert [file for file in files if (one / file).read_bytes() != (two / file).read_bytes()] == []


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("name", LOADED)
def test_transformers_finds_every_tensor_in_either_spelling(name: str, tmp_path: Path) -> None:
    old, new = make(name, tmp_path / "v4"), make(name, tmp_path / "v5", spelling="v5")
    model, info = load(old)
    left = [key for key in info["unexpected_keys"] if not name.endswith("-mtp")]  # transformers leaves the layer behind
    assert not any((info["missing_keys"], left, info["mismatched_keys"]))
    spelled = [_settled(config) for config in (model.config.to_dict(), load(new)[0].config.to_dict())]
    assert spelled[0] == spelled[1]


def _settled(config: dict[str, Any]) -> dict[str, Any]:
    """Without what only says how the file was spelled."""
    dropped = {"_name_or_path", "transformers_version", "type", "sliding_window_pattern", "num_experts"}
    return {k: _settled(v) if isinstance(v, dict) else v for k, v in config.items() if k not in dropped}


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("twins", [("mixtral", "mixtral-fused"), ("qwen3moe", "qwen3moe-fused")])
def test_layouts_of_one_model_load_to_equal_weights(twins: tuple[str, str], tmp_path: Path) -> None:
    one, two = (load(make(name, tmp_path / name))[0].state_dict() for name in twins)
    assert one.keys() == two.keys()
    assert all(bool((one[key] == two[key]).all()) for key in one)


@pytest.mark.parametrize("name", ["llama3", "gemma3-vision"])
def test_shards_hold_what_one_file_holds(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    whole = load_file(make(name, tmp_path / "one", dtype="bfloat16") / "model.safetensors")
    folder = make(name, tmp_path / "two", dtype="bfloat16", shards=2)
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    parts = {file: load_file(folder / file) for file in set(where.values())}
    assert len(parts) == 2
    assert where.keys() == whole.keys()
    assert all(parts[file][key].equal(whole[key]) for key, file in where.items())


@pytest.mark.parametrize("name", SPM)
def test_both_tokenizer_files_give_the_same_ids(name: str, tmp_path: Path) -> None:
    folder = make(name, tmp_path)
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    fast = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [fast.encode(text, add_special_tokens=False).ids for text in TEXTS] == [pieces.encode(t) for t in TEXTS]


@pytest.mark.parametrize("name", TINY)
def test_ids_fit_the_embedding(name: str, tmp_path: Path) -> None:
    fast = tokenizers.Tokenizer.from_file(str(make(name, tmp_path) / "tokenizer.json"))
    called = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
    rows = next(weight.shape[0] for key, weight in weights(name).items() if key.endswith(called))
    assert rows - 8 <= fast.get_vocab_size() <= rows
