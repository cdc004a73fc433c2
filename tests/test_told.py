"""What a user is told of a choice: in file names and titles, where a folder is refused, in warnings and notes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import PAIR, finished, load, one_thread, source_of, store, train, write_adapter
from exported import change_json, planned
from report_document import changed
from tiny import make
from trainers import cache

from exporter import Options, export, load_profile
from exporter.errors import OutputError, RunError
from exporter.inspect import inspect_run, render
from exporter.merge.qlora import LayerError, warning
from exporter.report import check_document, render_html, render_markdown
from exporter.report.changed import changed_weights
from exporter.report.of_run import title
from exporter.run import open_run

__all__ = ["cache", "one_thread"]
DOUBLE = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
FINE_TUNE = re.compile(r"Tiny-139K-([A-Za-z0-9\s-]+)-v0\.1-Q8_0\.gguf")
"""The part of a name by the GGUF naming convention, with the letters that it may be of."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("base") / "Tiny-Chat-v0.1", dtype="bfloat16")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("qwen2", tmp_path_factory.mktemp("tied") / "base")


@pytest.fixture
def run(tmp_path: Path, base: Path) -> Path:
    return write_adapter(tmp_path / "support", base, {})


def export_to(out: Path, run: Path, level: str, **options: Any) -> Any:  # noqa: ANN401  (a document)
    asked = Options(**{"verify": False, "threads": 1} | options)
    return export(str(run), [load_profile(level)], out, options=asked, progress=lambda *_: None)[0]


# Names.


def test_choices_are_in_the_names(run: Path, base: Path, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "my_other.v2", base, {})
    more = write_adapter(tmp_path / "tone" / "checkpoint-9", base, {})

    def fine_tune(**options: Any) -> str:  # noqa: ANN401
        plan = planned(run, "q8_0", **options)
        found = FINE_TUNE.fullmatch(plan.outputs[0].file)
        assert found, plan.outputs[0].file
        assert plan.outputs[0].metadata["general.finetune"] == found[1]
        assert f"Chat-{plan.name}" == found[1]
        return found[1]

    assert fine_tune() == "Chat-support"
    assert fine_tune(qlora_base="nf4") == "Chat-support-nf4base"
    assert fine_tune(adapters=(f"{other}", f"{more}:0.5")) == "Chat-support-plus-my-other-v2-plus-tone-x0-5"
    assert fine_tune(adapters=(f"{other}:-1", f"{more}:-1e-3")) == "Chat-support-minus-my-other-v2-minus-tone-x0-001"
    assert fine_tune(adapters=(f"{other}",), qlora_base="nf4").endswith("-my-other-v2-nf4base")
    change_json(run / "adapter_config.json", base_model_name_or_path=str(base))
    (run / "config.json").write_text('{"quantization_config": {"load_in_4bit": true}}')
    assert fine_tune(qlora_base="nf4") == "Chat-support-fp4base"


def test_an_adapter_over_a_full_model_is_in_its_name(run: Path, base: Path) -> None:
    assert planned(base, "q8_0").outputs[0].file == "Tiny-139K-Chat-v0.1-Q8_0.gguf"
    assert planned(base, "q8_0", adapters=(str(run),)).outputs[0].file == "Tiny-139K-Chat-plus-support-v0.1-Q8_0.gguf"


def test_titles() -> None:
    assert title(check_document(changed("run.adapters.0.given", None), "here"))[1] == "support-lora"
    document = changed("run.qlora_base", "nf4")
    document["run"]["adapters"] += [
        {"path": "./tone", "given": "runs/tone", "weight": 0.5},
        {"path": "./cache", "given": "org/style", "weight": -1.0},
    ]
    expected = "support-lora + tone × 0.5 - style, over the base rounded to 4 bits"  # noqa: RUF001
    assert title(check_document(document, "here"))[1] == expected
    assert f"# HuggingFaceTB/SmolLM2-135M-Instruct: {expected}" in render_markdown(check_document(document, "here"))


# A folder that is refused.


def test_a_folder_of_another_choice_says_what_differs(run: Path, base: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", write_adapter(tmp_path / "other", base, {})
    document = export_to(out, run, "q8_0", adapters=(f"{other}:0.5",))
    assert title(document)[1] == "support + other × 0.5"  # noqa: RUF001
    same = {"adapters": (f"{other}:0.5",)}

    def refused(**options: Any) -> str:  # noqa: ANN401
        with pytest.raises(OutputError, match=r"holds q8_0 of another run.*: give another --out") as stopped:
            export_to(out, run, "q4_0", **same | options)
        return str(stopped.value)

    assert f"otherwise: the adapters: {run} + {other} with weight 0.5 before, {run} now. " in refused(adapters=())
    assert f"{run} + {other} with weight 0.25 now. " in refused(adapters=(f"{other}:0.25",))
    close = refused(adapters=(f"{other}:0.50000001",))
    assert f"{run} + {other} with weight 0.5 before, {run} + {other} with weight 0.50000001 now. " in close
    assert "otherwise: --qlora-base was full, is nf4. " in refused(qlora_base="nf4")
    assert "otherwise: --moe-lora-layout was not given, is rank_major. " in refused(packing="rank_major")
    both = refused(qlora_base="nf4", adapters=())
    assert "; --qlora-base was full, is nf4. " in both
    assert " before, " in both
    copy = make("llama", tmp_path / "copy" / base.name, dtype="bfloat16")
    change_json(copy / "config.json", note="another")
    assert f"otherwise: the base: {base} before, {copy} now. " in refused(base=str(copy))
    store(other, {name: tensor * 2 for name, tensor in PAIR.items()})
    assert f"the adapters: files in {run} + {other} with weight 0.5 were changed since. " in refused()


def test_everything_that_was_measured_otherwise_is_named(run: Path, tmp_path: Path) -> None:
    out, text, other = tmp_path / "out", tmp_path / "a.txt", tmp_path / "b.txt"
    for file in (text, other):
        file.write_text("the of and to in is that it was for on are with this have you 123's\n" * 160)
    other.write_text("to in is that it was\n" * 999)
    export_to(out, run, "q8_0", verify=True, text=text, chunks=1)
    named = r"the text .*a\.txt, not .*b\.txt \(.*\); mode default, not llama\.cpp; --chunks 1, not 2: figures"
    with pytest.raises(OutputError, match=rf"q8_0 were measured with {named}"):
        export_to(out, run, "q4_0", verify=True, text=other, chunks=2, mode="llama.cpp")


# Warnings and notes.


def test_rounding_a_base_that_nobody_said_was_rounded_is_warned_of(run: Path) -> None:
    (said,) = (one for one in planned(run, "q8_0", qlora_base="nf4").warnings if "no file of the run says" in one)
    assert said.startswith("--qlora-base nf4 was given")
    assert said in inspect_run(str(run), qlora_base="nf4")["warnings"]
    assert not any("--qlora-base nf4 was" in one for one in planned(run, "q8_0").warnings)
    (run / "README.md").write_text("---\ntags: [qlora]\n---\n")
    assert not any("--qlora-base nf4 was" in one for one in planned(run, "q8_0", qlora_base="nf4").warnings)


def test_the_rounding_against_the_training_in_one_sentence() -> None:
    rows = [LayerError(str(k), 1, delta, 2.0) for k, delta in enumerate((4.0, 1.0, 0.1, 0.5))]
    full = str(warning(rows, over="full"))
    assert full.startswith("QLoRA: in 3 of 4 layers rounding the base to 4 bits took more than training added ")
    assert "(median of all layers: 2 times; worst, layer 2: 20 times)" in full
    assert "laid over the 16-bit one" in full
    assert "export with --qlora-base nf4 too, into another folder, and compare the reference's perplexity" in full
    assert "The KL divergences are not comparable" in full
    nf4 = str(warning(rows, over="nf4"))
    assert "laid over the rounded one" in nf4
    assert "--qlora-base full too" in nf4
    unmoved = str(warning([LayerError("lm_head.weight", 1, 0.0, 1.0)], over="full"))
    assert "worst, lm_head.weight: training added nothing" in unmoved
    assert warning([LayerError("0", 1, 2.0, 1.0)], over="full") is None


HEADS: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("nothing of both", {"target_modules": ["q_proj"]}, False),
    ("lora on the head", {"target_modules": ["q_proj", "lm_head"]}, True),
    ("lora on the embedding", {"target_modules": ["embed_tokens"]}, True),
    ("the head saved", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, True),
    ("tokens of both", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]}, False),
)


@pytest.mark.parametrize(("fields", "own"), [row[1:] for row in HEADS], ids=[row[0] for row in HEADS])
def test_a_head_that_training_untied_is_noted(fields: dict[str, Any], own: bool, tied: Path, tmp_path: Path) -> None:  # noqa: FBT001
    run = train(load(tied), tmp_path / "run", **fields)
    notes = [one for one in planned(run, "f16").notes if one.startswith("head and embedding are one tensor")]
    assert bool(notes) is own
    assert not own or notes[0].endswith("20,480 weights more (320 x 64)")
    facts = inspect_run(str(run))
    assert [one for one in facts["notes"] if one in notes] == notes
    # One count: by the headers and the adapter's tensors, and once every row was read.
    source = source_of(run)
    before = changed_weights(source)
    finished(source)
    assert changed_weights(source) == before == [name for name, one in source.deltas().items() if one.change > 0]
    assert facts["weights_changed"] == facts["adapters"][0]["weights_changed"] == len(before)


def test_a_base_with_a_head_of_its_own_is_not_noted(base: Path, tmp_path: Path) -> None:
    run = train(load(base), tmp_path / "run", target_modules=["lm_head"])
    assert not any("head and embedding" in one for one in planned(run, "f16").notes)


def test_weights_are_counted_alike_by_inspect_and_the_report(base: Path, tmp_path: Path) -> None:
    one = train(load(base), tmp_path / "one", target_modules=["q_proj", "v_proj"])
    two = train(load(base), tmp_path / "two", target_modules=["q_proj", "up_proj"])
    store(one, {"base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight": torch.zeros(32, 4)})
    facts = inspect_run(str(one), adapters=(str(two),))
    assert [adapter["weights_changed"] for adapter in facts["adapters"]] == [3, 4]
    merge = export_to(tmp_path / "out", one, "q8_0", adapters=(str(two),))["merge"]
    assert facts["weights_changed"] == merge["weights_changed"] == 5
    assert merge["unchanged"] == ["model.layers.1.self_attn.v_proj.weight"]


# The vocabulary, and the adapters.


def test_the_ledger_is_in_plain_words(run: Path) -> None:
    lines = render(inspect_run(str(run))).splitlines()
    place = lines.index("vocabulary:")
    assert lines[place + 1 : place + 8] == [
        "  rows of the base's embedding: 409",
        "  rows of the base's head: 409",
        "  tokens in the tokenizer: 409",
        "  highest token id: 408",
        "  vocab_size in config.json: 409",
        "  rows in the file: 409",
        "  the embedding keeps the base's 409 rows",
    ]


def test_inspect_says_each_thing_once_and_in_words_of_its_own(run: Path, tied: Path) -> None:
    facts, text = inspect_run(str(run)), render(inspect_run(str(run)))
    assert facts["parameters"] == planned(run, "f16").parameters
    assert f"\nparameters: {facts['parameters']:,}\n" in text
    assert text.count("weights changed: ") == 1
    assert "trainer: peft\ndataset" in text
    assert text.count("\n  ends:\n") == 1
    eos = facts["tokenizer"]["special"]["eos"]
    assert f"\n    token {eos['id']}: {eos['text']}, llama.cpp stops there (eos); said by " in text
    assert "\n  model, as GGUF names it: llama\n  tokens: " in text  # SentencePiece's is cut by no pre-tokenizer
    plain = render(inspect_run(str(tied)))
    assert "\n  model, as GGUF names it: gpt2\n  pre-tokenizer: qwen2\n" in plain
    assert "weights changed" not in plain
    both = render(inspect_run(str(run), adapters=(str(run),)))
    assert "\nweights changed by all adapters together: 1\n" in both
    assert both.count("\n  weights changed: 1\n") == 2


def test_an_adapters_kind_is_in_the_report(base: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"r": 2, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"up_proj": 3}}
    run = train(load(base), tmp_path / "run", target_modules=["q_proj", "up_proj"], **fields)
    change_json(run / "adapter_config.json", alpha_pattern={"up_proj": 6}, layers_to_transform=list(range(40)))
    change_json(run / "adapter_config.json", layers_to_transform=None)
    document = export_to(tmp_path / "out", run, "q8_0")
    (adapter,) = document["run"]["adapters"]
    assert adapter["given"] is None
    settings = adapter["settings"]
    assert settings.items() <= inspect_run(str(run))["adapters"][0].items()
    assert (settings["r"], settings["lora_alpha"], settings["use_rslora"]) == (2, 6, True)
    page = render_markdown(document)
    for row in ("| Folder | ", "| Given by | the run |", "| Rank (r) | 2 |", "| rsLoRA (use\\_rslora) | yes |"):
        assert row.replace("\\_", "_") in page.replace("\\_", "_"), row
    assert "| rank_pattern | up_proj: 3 |" in page
    assert "DoRA" not in page
    assert f"| SHA-256 | `{adapter['sha256']}` |" in page


def test_settings_of_any_form_are_shown_and_long_ones_cut() -> None:
    settings = {"target_modules": [f"m{k}" for k in range(20)], "layer_replication": [[0, 2], [1, 3]], "x": None}
    page = render_markdown(check_document(changed("run.adapters.0.settings", settings), "here"))
    assert "m14, m15 and 4 more |" in page
    assert "| layer_replication | 0, 2, 1, 3 |" in page
    assert "| x | - |" in page
    assert "<td>m0, m1" in render_html(check_document(changed("run.adapters.0.settings", settings), "here"))


def test_a_setting_that_is_no_number_can_be_written(run: Path) -> None:
    change_json(run / "adapter_config.json", alpha_pattern={"x": float("nan")})
    assert open_run(run).adapters[0].settings["alpha_pattern"] == {"x": "NaN"}


# The Hub.


@pytest.mark.usefixtures("cache")
def test_a_source_that_cannot_be_fetched_says_what_to_do(tmp_path: Path) -> None:
    name = "unsloth/Tiny-Llama-bnb-4bit"
    run = write_adapter(tmp_path / "run", None, {}, base_model_name_or_path=name)
    with pytest.raises(RunError) as stopped:
        open_run(run, base_revision="v2")
    said = str(stopped.value)
    assert said.startswith("unsloth/Tiny-Llama: the base is no folder here, not whole in the Hub's cache")
    assert (
        "(`hf download unsloth/Tiny-Llama --revision v2 --local-dir DIR`), and give that folder with --base DIR."
        in said
    )
    assert f" unsloth/Tiny-Llama is the 16-bit source of {name}, which adapter_config.json names; " in said
    assert f"--base {name} takes it as it is stored, in 4 bits." in said
