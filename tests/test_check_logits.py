"""The proof of the logits tells another adapter from the run's own, and does not trust what a file calls itself."""

import json
import shutil
from pathlib import Path

import pytest
from exported import changed, written
from proofs import statuses
from tiny import make

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


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
def test_the_level_is_that_of_the_tensors(tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run")
    file = changed(written(run, tmp_path)[1]["f32"], tmp_path / "q8.gguf", general__file_type=7)
    assert statuses(run, file)["logits"][0] == "pass"
