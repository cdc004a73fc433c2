"""A folder that has something already grows by levels of the same run and text; nothing is overwritten unasked."""

import fcntl
import os
from pathlib import Path

import pytest
from exported import change_json
from gguf import GGUFReader
from tiny import make
from whole_exports import BF16, Q4, Q8, REPORTS, export_to, level_of, names

from exporter.errors import OutputError
from exporter.report import read_report


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


def test_an_existing_file_is_refused_and_kept(run: Path, out: Path) -> None:
    out.mkdir()
    (out / Q4).write_bytes(b"mine")
    with pytest.raises(OutputError, match=rf"{Q4}: exists already\. Give --overwrite"):
        export_to(out, run, "q8_0", "q4_0")
    assert names(out) == {Q4}
    assert (out / Q4).read_bytes() == b"mine"
    export_to(out, run, "q8_0", "q4_0", overwrite=True)
    assert names(out) == {Q8, Q4} | REPORTS
    assert GGUFReader(out / Q4).tensors


def test_more_levels_of_a_run_grow_its_report(run: Path, out: Path, text: Path) -> None:
    first = export_to(out, run, "q8_0", text=text, chunks=2)
    before = (out / Q8).stat()
    second = export_to(out, run, "q4_0", "bf16", text=text)  # measured on as many chunks as the first
    assert [level["quant"] for level in second["levels"]] == ["bf16", "q8_0", "q4_0"]
    assert level_of(second, "q8_0") == level_of(first, "q8_0")
    assert second["measured_on"] == first["measured_on"]
    assert (out / Q8).stat() == before
    assert names(out) == {Q8, Q4, BF16} | REPORTS
    together = export_to(out.with_name("together"), run, "q8_0", "q4_0", "bf16", text=text, chunks=2)
    assert together["levels"] == second["levels"]
    assert [sorted(check["levels"]) for check in second["checks"]] == [["bf16", "q4_0", "q8_0"]] * 4


def test_the_same_command_for_more_levels_is_taken_though_the_text_ends(run: Path, out: Path, text: Path) -> None:
    for level in ("q8_0", "q4_0"):
        document = export_to(out, run, level, text=text, chunks=500)
    assert document["measured_on"]["asked"] == 500 > document["measured_on"]["chunks"]
    assert "The text has no more" in document["warnings"][-1]
    unmeasured = export_to(out, run, "bf16")
    assert unmeasured["warnings"] == document["warnings"]
    assert sum("kld" in level for level in unmeasured["levels"]) == 2


def test_a_level_asked_for_again_is_refused_or_replaced(run: Path, out: Path, text: Path) -> None:
    export_to(out, run, "q8_0", "q4_0", text=text, chunks=1)
    report = (out / "report.json").read_bytes()
    with pytest.raises(OutputError, match=rf"{Q8}: exists already"):
        export_to(out, run, "q8_0", "bf16", text=text, chunks=1)
    assert (out / "report.json").read_bytes() == report
    assert names(out) == {Q8, Q4} | REPORTS
    document = export_to(out, run, "q8_0", text=text, chunks=1, overwrite=True)
    assert sorted(level["quant"] for level in document["levels"]) == ["q4_0", "q8_0"]
    assert read_report(out) == document


def test_growing_by_other_figures_is_refused(run: Path, out: Path, text: Path) -> None:
    export_to(out, run, "q8_0", text=text, chunks=1)
    other = out.with_name("other.txt")
    other.write_text("another text " * 999)
    for changed, named in (
        ({"chunks": 2}, "--chunks 1, not 2"),
        ({"mode": "llama.cpp"}, "mode default, not llama.cpp"),
        ({"text": other}, "the text .*, not .*other.txt"),
    ):
        with pytest.raises(OutputError, match=f"q8_0 were measured with {named}"):
            export_to(out, run, "q4_0", **{"text": text} | changed)
    with pytest.raises(OutputError, match="q8_0 were measured with the reference in bf16, not f32"):
        export_to(out, run, "f32", text=text)
    assert names(out) == {Q8} | REPORTS


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_the_folder_of_another_run_is_refused(file: str, run: Path, out: Path) -> None:
    export_to(out, run, "q8_0")
    if file.endswith(".json"):
        change_json(run / file, note="another run")
    else:
        make("llama", run, dtype="bfloat16")
    with pytest.raises(OutputError, match="holds q8_0 of another run, or of this one made otherwise"):
        export_to(out, run, "q4_0")
    assert names(out) == {Q8} | REPORTS


def test_one_export_at_a_time_in_a_folder(run: Path, out: Path) -> None:
    out.mkdir()
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="another export is writing to it"):
        export_to(out, run, "q8_0")
    os.close(handle)
    export_to(out, run, "q8_0")
