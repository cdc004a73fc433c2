"""The proofs of a finished file: right files pass, and each thing that goes wrong turns its own check red."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from exported import COMMAND, change_json, changed, kind_and_value, written
from gguf import GGUFReader
from proofs import red, statuses
from tiny import make

from exporter.check import prove
from exporter.check.corpus import SCRIPTS, corpus, random_texts
from exporter.check.expected import OTHER_CUTS, RESPELLED, expect
from exporter.check.ids import check_ids
from exporter.errors import ProofError
from exporter.llamacpp import Engine
from exporter.pipeline import Options, prepare
from exporter.profiles import load_profile
from exporter.tokenizer.render import render
from exporter.tokenizer.template import rendered
from exporter.writer import write

ROOT = Path(__file__).resolve().parents[1]
GGML = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with a byte-level tokenizer, and its f32 file."""
    folder = tmp_path_factory.mktemp("llama3")
    run = make("llama3", folder / "run")
    return run, written(run, folder)[1]["f32"]


def value_of(file: Path, key: str) -> Any:  # noqa: ANN401
    return kind_and_value(GGUFReader(file).fields[key])[1]


def test_the_corpus_is_what_is_promised() -> None:
    texts = corpus()
    assert len(set(texts)) == len(texts) >= 1000
    assert len(SCRIPTS) >= 30
    drawn = random_texts()
    assert len(set(drawn)) == 1000
    assert drawn == random_texts()


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2", "gemma3", "mistral"])
def test_a_right_file_passes_every_proof(name: str, tmp_path: Path) -> None:
    run = make(name, tmp_path / "run")
    file = written(run, tmp_path)[1]["f32"]
    assert {check: status for check, (status, _) in statuses(run, file).items()} == dict.fromkeys(
        ("load", "fields", "weights", "tokenizer", "template", "bos", "logits"), "pass"
    )


def test_a_wrong_pre_tokenizer_turns_the_tokenizer_red(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = llama
    found = statuses(run, changed(file, tmp_path / "wrong.gguf", tokenizer__ggml__pre="gpt-2"))
    assert "tokenizer" in red(found)
    assert "otherwise than tokenizer.json: " in found["tokenizer"][1]


def test_a_pre_tokenizer_that_the_user_chose_is_named(tmp_path: Path) -> None:
    run = make("llama3", tmp_path / "run")
    opened, source, plan = prepare(str(run), [load_profile("f32")], Options(verify=False, pre="gpt-2"))
    write(plan, source, [tmp_path / "f32.gguf"], threads=1, progress=lambda *_: None)
    why = r"by the pre-tokenizer that --pre gpt-2 chose \(leave --pre out, or choose another\): "
    with pytest.raises(ProofError, match=why):
        prove(opened, plan, [tmp_path / "f32.gguf"], lambda *_: None)


def test_texts_that_are_left_out_are_told_with_the_reason(llama: tuple[Path, Path]) -> None:
    run, file = llama
    opened, _, plan = prepare(str(run), [], Options(verify=False, prove=True))
    expected = replace(expect(opened, plan), left_out={OTHER_CUTS: 2, RESPELLED: 0})
    with Engine(file) as engine:
        detail = check_ids(engine, expected).detail
    assert detail.endswith("; 2 left out, which llama.cpp's pre-tokenizer is known to cut otherwise")


def test_a_swapped_token_turns_the_tokenizer_red(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = llama
    tokens = list(value_of(file, f"{GGML}tokens"))
    tokens[300], tokens[301] = tokens[301], tokens[300]
    found = statuses(run, changed(file, tmp_path / "wrong.gguf", tokenizer__ggml__tokens=tokens))
    assert "tokenizer" in red(found)
    assert "2 tokens are not those of tokenizer.json: 300 is" in found["tokenizer"][1]


def test_a_changed_template_turns_the_template_red(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = llama
    template = value_of(file, TEMPLATE)
    found = statuses(run, changed(file, tmp_path / "wrong.gguf", tokenizer__chat_template=f"{template}\n!"))
    assert red(found) == {"fields", "template"}
    assert "the file's template is not the run's text" in found["template"][1]
    same = changed(file, tmp_path / "same.gguf", tokenizer__chat_template=f"{template}{{# a remark #}}")
    assert red(statuses(run, same)) == {"fields"}  # rendered alike, but another text


def test_a_doubled_bos_turns_bos_red(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = llama
    flag = value_of(file, f"{GGML}add_bos_token")
    found = statuses(run, changed(file, tmp_path / "flag.gguf", tokenizer__ggml__add_bos_token=not flag))
    assert red(found) == {"fields", "bos"}
    twice = make("llama3", tmp_path / "twice")
    template = json.loads((twice / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    change_json(twice / "tokenizer_config.json", chat_template="{{ bos_token }}{{ bos_token }}" + template)
    found = statuses(twice, written(twice, tmp_path / "out")[1]["f32"])
    assert red(found) == {"bos"}
    assert "BOS, expected one" in found["bos"][1]


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
def test_a_wrong_row_of_a_weight_turns_the_logits_red(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = llama
    weight = next(np.array(t.data) for t in GGUFReader(file).tensors if t.name == "blk.0.attn_v.weight")
    weight[[3, 4]] = weight[[4, 3]]
    found = statuses(run, changed(file, tmp_path / "wrong.gguf", {"blk.0.attn_v.weight": weight}))
    assert red(found) == {"weights", "logits"}
    assert "largest difference" in found["logits"][1]


def test_a_token_that_programs_do_not_give_a_template_turns_it_red(tmp_path: Path) -> None:
    run = make("llama3", tmp_path / "run")
    template = json.loads((run / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    change_json(run / "tokenizer_config.json", chat_template="{{ pad_token }}" + template, pad_token="<|end_of_text|>")  # noqa: S106
    found = statuses(run, written(run, tmp_path / "out")[1]["f32"])
    assert "template" in red(found)
    assert "it asks for a token that programs do not give" in found["template"][1]


def test_a_damaged_file_fails_to_load_and_nothing_else_is_said(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = llama
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:-1000])
    assert list(statuses(run, tmp_path / "cut.gguf")) == ["load"]


def test_what_cannot_be_run_is_skipped_with_the_reason(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = llama
    found = statuses(run, written(run, tmp_path, ("q8_0",))[1]["q8_0"])
    assert found["logits"] == ("skipped", "the file is quantized: the proof is for f32, f16 and bf16 files")
    bare = make("llama3", tmp_path / "bare")
    change_json(bare / "tokenizer_config.json", chat_template="{{ raise_exception('never') }}")
    found = statuses(bare, written(bare, tmp_path / "out")[1]["f32"])
    assert found["template"][0] == "skipped"
    assert "jinja2 renders no conversation" in found["template"][1]


def test_the_users_text_is_compared_too(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = llama
    (tmp_path / "text.txt").write_text("One line.\n" * 2000, encoding="utf-8")
    assert "5 of --text" in statuses(run, file, text=tmp_path / "text.txt")["tokenizer"][1]


@pytest.mark.parametrize(("change", "status"), [({}, 0), ({"tokenizer__chat_template": "{{ messages }}"}, 2)])
def test_the_command_ends_with_the_contracts_status(
    change: dict[str, object], status: int, llama: tuple[Path, Path], tmp_path: Path
) -> None:
    run, file = llama
    q8 = changed(file, tmp_path / "file.gguf", **change)
    command = [*COMMAND, "check", str(q8), "--against", str(run), "--json", "--quiet", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == status, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == ("fail" if status else "pass")
    assert [one["name"] for one in document["checks"]] == [
        *("load", "fields", "weights", "tokenizer", "template", "bos", "logits")
    ]
    assert bool(status) is ("file.gguf: is not this run's, by the proofs of fields, template." in done.stderr)


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
def test_an_export_proves_the_logits_when_asked(llama: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = llama
    command = [*COMMAND, "export", str(run), "--quant", "q8_0", "--no-verify", "--prove", "--json", "--quiet"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    checks = {one["name"]: (one["status"], one["levels"]) for one in json.loads(done.stdout)["checks"]}
    assert checks["logits"] == ("pass", ["bf16"])
    assert checks["template"] == ("pass", ["q8_0"])
    assert [file.suffix for file in (tmp_path / "out").glob("*.gguf")] == [".gguf"]


def test_a_template_that_never_ends_ends() -> None:
    [(text, failed)] = rendered(
        "{% for x in range(99999999) %}{% for y in range(9999) %}{% endfor %}{% endfor %}", [{}]
    )
    assert text == ""
    assert failed is not None


def test_profiles_that_the_bounds_are_for_are_there() -> None:
    from exporter.check.bounds import BOUNDS  # noqa: PLC0415

    names = {str(int(gguf.LlamaFileType[load_profile(level).file_type])): level for level in BOUNDS}
    assert names == {"0": "f32", "1": "f16", "32": "bf16"}
    assert render("{{ x | tojson }}", [{"x": {"<a>": "é"}}]) == [{"text": '{"<a>": "é"}', "failed": None}]
