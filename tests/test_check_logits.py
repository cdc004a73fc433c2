"""The proof of the logits tells another adapter from the run's own, and does not trust what a file calls itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapters import adapted, load, store, train
from exported import changed, written
from peft_cases import IDS
from proofs import statuses
from tiny import make

from exporter.check.live import Unable, _adapted

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def whence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's file in bf16."""
    return written(EXAMPLES / "whence", tmp_path_factory.mktemp("whence"), ("bf16",))[1]["bf16"]


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize(("strength", "status"), [(1.0, "pass"), (0.8, "skipped"), (0.6, "fail")])
def test_an_adapter_at_part_of_its_strength_does_not_pass(
    strength: float, status: str, whence: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(EXAMPLES / "whence", run)
    config = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))
    base = (EXAMPLES / "whence" / config["base_model_name_or_path"]).resolve()
    config |= {"lora_alpha": config["lora_alpha"] * strength, "base_model_name_or_path": str(base)}
    (run / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    found, detail = statuses(run, whence)["logits"]
    assert found == status, detail
    assert ("cannot tell" in detail) is (status == "skipped")


@pytest.mark.filterwarnings("default")  # deprecations inside transformers and PEFT
@pytest.mark.parametrize("equal", [True, False])
def test_trained_tokens_that_peft_saved_for_a_tied_head_too_are_taken(equal: bool, tmp_path: Path) -> None:  # noqa: FBT001
    base = make("qwen2", tmp_path / "base")
    rows = load(base).config.vocab_size + 8
    fields = {"target_modules": ["q_proj"], "trainable_token_indices": [3, rows - 1]}
    run = train(load(base, rows=rows), tmp_path / "run", **fields)
    head = "base_model.model.lm_head.token_adapter.trainable_tokens_delta"
    if not equal:
        store(run, {head: torch.ones(2, 64)})
    request = {"adapters": [(str(run), 1.0)], "rows": rows}
    if not equal:
        with pytest.raises(Unable, match=r"PEFT does not take 1 of the adapter's tensors: .*lm_head"):
            _adapted(load(base), request)
        return
    with torch.no_grad():
        expected = adapted(load(base, rows=rows), run)(IDS).logits
        assert _adapted(load(base), request)(input_ids=IDS).logits.equal(expected)


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
def test_the_level_is_that_of_the_tensors(tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run")
    file = changed(written(run, tmp_path)[1]["f32"], tmp_path / "q8.gguf", general__file_type=7)
    assert statuses(run, file)["logits"][0] == "pass"
