"""Whole exports of tiny models: which files there are afterwards, what the report says, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest
from exported import tensors, written
from gguf import GGUFReader
from tiny import make
from whole_exports import BF16, Q4, Q8, REPORTS, export_to, level_of, names, sha256

from exporter import Options, export, load_profile
from exporter.check import prove
from exporter.errors import EngineError, GgufxError, ProofError, WeightError
from exporter.pipeline import prepare
from exporter.report import check_document


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words that the tiny vocabularies hold: some 4000 tokens."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("the of and to in is that it was for on are with this have you 123's\n" * 160, encoding="utf-8")
    return file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make("llama", tmp_path / "run")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_an_export_measures_each_level_and_leaves_nothing_else(run: Path, out: Path, text: Path) -> None:
    document = export_to(out, run, "q8_0", "q4_0", text=text, chunks=3)
    assert names(out) == {Q8, Q4} | REPORTS
    assert json.loads((out / "report.json").read_text()) == document
    assert check_document(dict(document), "here")
    assert [(check["name"], check["status"]) for check in document["checks"]] == [
        ("load", "pass"),
        ("tokenizer", "pass"),
        ("template", "pass"),
        ("bos", "pass"),
    ]
    assert document["reference"]["kind"] == "bf16"
    on = document["measured_on"]
    assert (on["sha256"], on["chunks"], on["context"], on["tokens"]) == (sha256(text), 3, 512, 3 * 512)
    for quant, name in (("q8_0", Q8), ("q4_0", Q4)):
        level = level_of(document, quant)
        assert (level["file"], level["files"], level["verdict"]) == (name, [name], "pass")
        assert (level["bytes"], level["sha256"]) == ((out / name).stat().st_size, sha256(out / name))
        counts: dict[str, int] = {}
        for tensor in GGUFReader(out / name).tensors:
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
        assert level["types"] == counts
    eight, four = level_of(document, "q8_0"), level_of(document, "q4_0")
    assert 0 < eight["kld"]["mean"] < four["kld"]["mean"]
    assert four["top1"]["value"] < eight["top1"]["value"] < 1
    assert eight["perplexity"]["ratio"] == pytest.approx(1, abs=0.02)


def test_the_hash_of_a_folder_is_of_its_files(run: Path, out: Path) -> None:
    document = export_to(out, run, "q8_0")
    # The files that decide what comes out: weights, configuration, tokenizer; not every file that may lie there.
    (run / "README.md").write_text("more")
    again = export_to(out.with_name("again"), run, "q8_0")
    assert document["run"]["base"]["sha256"] == again["run"]["base"]["sha256"]
    kept = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model"}
    lines = sorted(f"{sha256(run / name)}  {name}\n" for name in kept | {"tokenizer_config.json"})
    assert document["run"]["base"]["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_without_measuring_nothing_but_the_levels_is_written(run: Path, out: Path) -> None:
    document = export_to(out, run, "q8_0", "q4_0")
    assert names(out) == {Q8, Q4} | REPORTS
    assert [level["verdict"] for level in document["levels"]] == ["not measured", "not measured"]
    assert document.get("reference") is None
    assert "kld" not in document["levels"][0]


def test_the_reference_is_a_level_that_was_asked_for(run: Path, out: Path, text: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    document = export_to(out, run, "bf16", "q8_0", text=text, chunks=1, scratch=scratch)
    assert names(out) == {BF16, Q8} | REPORTS
    assert names(scratch) == set()
    assert level_of(document, "bf16")["kld"]["mean"] == pytest.approx(0, abs=1e-6)
    assert level_of(document, "bf16")["perplexity"]["value"] == document["reference"]["perplexity"]["value"]


def test_the_folder_is_named_after_the_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profiles = [load_profile("q8_0")]
    options = Options(verify=False)
    _, folder = export(str(run), profiles, None, options=options, progress=lambda _step, _done, _total: None)
    assert folder == tmp_path / "run-gguf"
    assert names(folder) == {Q8} | REPORTS


# Proofs.


def add_tokens_that_overlap(run: Path) -> None:
    """Rename two added tokens: of those that overlap in a text tokenizers takes the first, llama.cpp the longer."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (run / name).read_text(encoding="utf-8")
        text = text.replace("<|python_tag|>", "own fo").replace("<|eom_id|>", "n fox jump")
        (run / name).write_text(text, encoding="utf-8")


def test_other_token_ids_than_the_tokenizers_fail_the_proof(out: Path, tmp_path: Path) -> None:
    run = make("llama3", tmp_path / "run")
    export_to(out.with_name("good"), run, "q8_0")
    add_tokens_that_overlap(run)
    with pytest.raises(
        ProofError, match=r"llama\.cpp splits \d+ of \d+ texts otherwise than tokenizer\.json: 'The quick"
    ):
        export_to(out, run, "q8_0", "q4_0")
    assert names(out) == set()


def test_a_weight_that_a_level_cannot_hold_is_named(out: Path, run: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  (imports torch)

    weights = load_file(run / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = 1e9  # the scale of a block of Q8_0 is an f16
    save_file(weights, run / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightError, match=r"blk\.0\.ffn_up\.weight: holds 1e\+09, which Q8_0 cannot hold"):
        export_to(out, run, "bf16", "q8_0")
    assert names(out) == set()
    export_to(out, run, "bf16")


@pytest.mark.parametrize("kept", [100, 20_000, -1])
def test_a_cut_file_fails_the_proof(kept: int, run: Path, tmp_path: Path) -> None:
    _, files = written(run, tmp_path, ("q8_0",))
    files["q8_0"].write_bytes(files["q8_0"].read_bytes()[:kept])
    opened, _, plan = prepare(str(run), [load_profile("q8_0")], Options(verify=False))
    with pytest.raises(ProofError, match=r"q8_0\.gguf: the proof of load failed: llama\.cpp does not load"):
        prove(opened, plan, [files["q8_0"]], lambda _done, _total: None)


def test_a_file_of_another_vocabulary_fails_the_proof(run: Path, tmp_path: Path) -> None:
    _, files = written(make("mistral", tmp_path / "other"), tmp_path, ("q8_0",))
    opened, _, plan = prepare(str(run), [load_profile("q8_0")], Options(verify=False))
    with pytest.raises(ProofError, match=r"the file has 411 tokens, the run 409"):
        prove(opened, plan, [files["q8_0"]], lambda _done, _total: None)


# Adapters, and what cannot be measured.


def test_an_adapter_is_exported_as_its_merged_model_is(run: Path, out: Path, tmp_path: Path, text: Path) -> None:
    from adapters import adapted, load, quiet, train  # noqa: PLC0415  (imports torch)

    adapter = train(load(run), tmp_path / "chat-lora", target_modules=["q_proj", "down_proj"])
    with quiet():
        adapted(load(run), adapter).merge_and_unload().save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        (tmp_path / "merged" / name).write_bytes((run / name).read_bytes())
    document = export_to(out, adapter, "q4_k_m", base=str(run), text=text, chunks=1)
    file = out / str(level_of(document, "q4_k_m")["file"])
    assert tensors(file) == tensors(written(tmp_path / "merged", tmp_path / "truth", ("q4_k_m",))[1]["q4_k_m"])
    assert document["run"]["kind"] == "lora"
    assert document["run"]["adapters"][0]["path"] == str(adapter)
    merge = document["merge"]
    assert merge is not None
    assert (merge["adapter_tensors"], merge["used"], merge["weights_changed"]) == (8, 8, 4)
    assert merge["largest_relative_delta"] > 0


@pytest.mark.parametrize(("mode", "least"), [("default", 512), ("llama.cpp", 1024)])
def test_a_text_that_is_too_short_is_found_before_the_work(mode: str, least: int, run: Path, out: Path) -> None:
    short = out.with_name("short.txt")
    short.write_text("the and of")
    with pytest.raises(EngineError, match=rf"short.txt: .* has 4 tokens; windows of 512 need {least}\. Give a longer"):
        export_to(out, run, "q8_0", text=short, mode=mode)
    assert not out.exists()


def test_a_text_that_cannot_be_read_is_found_before_the_work(run: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9" * 1000)
    for name, message in (("latin.txt", "not UTF-8: byte 0 is 0xe9"), ("none.txt", "No such file")):
        with pytest.raises(GgufxError, match=message):
            export_to(out, run, "q8_0", text=tmp_path / name)
    assert not out.exists()
