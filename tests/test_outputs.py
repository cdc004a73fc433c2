"""What stands in an output folder: whose it is, what is replaced, and what an interrupt leaves."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from exported import COMMAND, change_json
from gguf import GGUFReader, GGUFWriter
from gguf.scripts.gguf_new_metadata import copy_with_new_metadata
from tiny import make

from exporter import Options, export, load_profile, writer
from exporter.errors import OutputError
from exporter.inputs import hash_inputs
from exporter.outputs import made_folder, replaced_when_done, require_files, scratch_folder
from exporter.pipeline import REPORT_BYTES, prepare, verify_files
from exporter.report import read_report, write_report

REPORTS = {"report.json", "report.md", "report.html"}
Q8, Q4 = "run-139K-Q8_0.gguf", "run-139K-Q4_0.gguf"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make("llama", tmp_path / "run")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def export_to(out: Path, run: Path, *levels: str, cut: str = "", **options: Any) -> None:  # noqa: ANN401  (by name)
    """Export, and interrupt the step named by ``cut``."""

    def progress(step: str, _done: int, _total: int) -> None:
        if step == cut:
            raise KeyboardInterrupt

    asked = Options(**{"verify": bool(cut), "threads": 1} | options)
    export(str(run), [load_profile(level) for level in levels], out, options=asked, progress=progress)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("page", ["report.md", "report.html"])
def test_a_page_of_the_users_own_is_kept(page: str, run: Path, out: Path) -> None:
    (out / page).write_text("mine")
    with pytest.raises(OutputError, match=rf"{page}: exists already, and no report\.json .*--overwrite"):
        export_to(out, run, "q8_0")
    assert names(out) == {page}
    assert (out / page).read_text() == "mine"
    export_to(out, run, "q8_0", overwrite=True)
    assert names(out) == {Q8} | REPORTS


def test_an_interrupted_replacement_keeps_the_other_levels_figures(run: Path, out: Path) -> None:
    export_to(out, run, "q8_0", "q4_0")
    report: dict[str, Any] = dict(read_report(out))
    for level in report["levels"]:
        level |= {"verdict": "pass", "kld": {"mean": 0.25}}
    write_report(read_report(out) | report, out)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        export_to(out, run, "q8_0", cut="measure", overwrite=True)
    levels = {level["quant"]: level for level in read_report(out)["levels"]}
    assert (levels["q4_0"]["verdict"], levels["q4_0"].get("kld")) == ("pass", {"mean": 0.25})
    assert (levels["q8_0"]["verdict"], levels["q8_0"].get("kld")) == ("not measured", None)
    assert names(out) == {Q8, Q4} | REPORTS


def test_a_link_of_a_partial_files_name_is_not_followed(run: Path, out: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in (f"{Q8}.partial", ".ggufx-report.json.partial", ".ggufx-report.md.partial", ".ggufx-partial.json"):
        (out / name).symlink_to(mine)
    with pytest.raises(OutputError, match=rf"{Q8}\.partial: exists already\. Give --overwrite"):
        export_to(out, run, "q8_0")
    export_to(out, run, "q8_0", overwrite=True)
    assert mine.read_text() == "mine"
    assert names(out) == {Q8} | REPORTS
    assert not any(file.is_symlink() for file in out.iterdir())


def test_a_partial_file_of_the_users_own_is_kept(run: Path, out: Path) -> None:
    mine = {f"{Q8}.partial", "report.json.partial"}
    for name in mine:
        (out / name).write_text("mine")
    with pytest.raises(OutputError, match=rf"{Q8}\.partial: exists already\. Give --overwrite"):
        export_to(out, run, "q8_0")
    assert names(out) == mine
    assert (out / f"{Q8}.partial").read_text() == "mine"
    export_to(out, run, "q4_0")
    assert names(out) == mine | {Q4} | REPORTS
    assert all((out / name).read_text() == "mine" for name in mine)


def test_what_a_killed_export_left_is_replaced_and_nothing_else(run: Path, out: Path) -> None:
    command = [*COMMAND, "export", str(run), "--quant", "q8_0,q4_0", "--no-verify", "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stderr is not None
        while not child.stderr.readline().startswith("prove: "):
            pass
        os.killpg(child.pid, signal.SIGKILL)
    assert names(out) > {f"{Q8}.partial", f"{Q4}.partial"}
    (out / "mine.partial").write_text("mine")
    export_to(out, run, "q8_0")
    assert names(out) == {Q8, "mine.partial"} | REPORTS


@pytest.mark.parametrize("name", [Q4, f"{Q4}.partial", "report.html", "report.json.partial"])
def test_a_folder_of_an_outputs_name_is_found_before_the_work(name: str, run: Path, out: Path) -> None:
    (out / name).mkdir()
    with pytest.raises(OutputError, match=rf"{name}: (is a folder, expected a file|exists already)"):
        export_to(out, run, "q8_0", "q4_0")
    with pytest.raises(OutputError, match=rf"{name}: is a folder, expected a file or nothing\. Move it away"):
        export_to(out, run, "q8_0", "q4_0", overwrite=True)
    assert names(out) == {name}


def test_names_that_no_file_can_have_are_refused(run: Path, out: Path) -> None:
    with pytest.raises(OutputError, match=r"no file can have this name \(File name too long\)\. Rename the run's"):
        require_files([out / ("x" * 250)])  # with .partial it is too long
    with pytest.raises(OutputError, match=r"x: cannot be written to \(File name too long\)\. Give another --out"):
        export_to(out / ("x" * 300), run, "q8_0")


def test_a_folder_whose_name_is_not_in_utf_8_is_refused(run: Path, out: Path) -> None:
    other = out / os.fsdecode(b"\xff")
    with pytest.raises(OutputError, match=r"\\xff: this path is not in UTF-8\. .*, or give another --out"):
        export_to(other, run, "q8_0")
    assert names(out) == set()
    other.mkdir()
    with pytest.raises(OutputError, match=r"\\xff: .* or give another --scratch"):
        export_to(out / "made", run, "q8_0", scratch=other)
    assert names(out) == {other.name}


def test_files_get_their_names_all_or_none(out: Path) -> None:
    files = [out / "a", out / "b"]
    with (
        pytest.raises(OutputError, match=r"b: cannot be given its name"),
        replaced_when_done(files, overwrite=False) as partial,
    ):
        partial[0].touch()
    assert names(out) == set()


@pytest.mark.parametrize("files", [1, 2])
def test_room_is_kept_for_the_report_and_the_reference(
    files: int, run: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepare(str(run), [load_profile("q8_0")], Options(verify=files > 1))[2]
    needed = sum(output.bytes for output in plan.outputs) + REPORT_BYTES
    assert len(plan.outputs) == files
    usage = type(shutil.disk_usage(out))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, needed - 1))
    with pytest.raises(OutputError, match=r"are needed, .* are free\. Free some space"):
        export_to(out, run, "q8_0", verify=files > 1)
    assert names(out) == set()


def test_a_report_that_cannot_be_written_says_what_is_made(run: Path, out: Path) -> None:
    def progress(step: str, _done: int, _total: int) -> None:
        if step == "prove":
            (out / "report.json").mkdir(exist_ok=True)

    with pytest.raises(OutputError, match=rf"Is a directory.*The files are made and whole, in {out}: {Q8}\."):
        export(str(run), [load_profile("q8_0")], out, options=Options(verify=False), progress=progress)
    assert names(out) == {Q8, "report.json"}


def test_scratch_folders_that_were_left_are_removed_and_those_in_use_are_not(out: Path) -> None:
    for name in (".ggufx-left", ".ggufx-mine"):
        (out / name).mkdir()
        (out / name / "big.gguf").touch()
    with scratch_folder(out) as used, made_folder(out):
        shutil.copytree(used, out / ".ggufx-left", dirs_exist_ok=True)  # what tells ours from a user's
        assert names(out) == {used.name, ".ggufx-left", ".ggufx-mine"}
    with scratch_folder(out) as used, made_folder(out):
        assert names(out) == {used.name, ".ggufx-mine"}
    assert names(out) == {".ggufx-mine"}
    assert names(out / ".ggufx-mine") == {"big.gguf"}


@pytest.mark.parametrize("change", ["is not there", "was changed since"])
def test_a_level_that_is_kept_must_be_what_the_report_says(change: str, run: Path, out: Path) -> None:
    export_to(out, run, "q8_0")
    if change == "is not there":
        (out / Q8).unlink()
    else:
        whole = (out / Q8).read_bytes()
        (out / Q8).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(OutputError, match=rf"{Q8}: report\.json lists it, but it {change}\. Put it back"):
        export_to(out, run, "q4_0")
    assert Q4 not in names(out)
    export_to(out, run, "q8_0", "q4_0", overwrite=True)


def test_tokenizer_files_from_beside_the_checkpoints_are_in_the_runs_hash(run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "training"
    shutil.copytree(run, whole / "checkpoint-9")
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        (whole / "checkpoint-9" / name).rename(whole / name)

    def hashes() -> dict[Path, str]:
        opened, source, _ = prepare(str(whole), [load_profile("q8_0")], Options(verify=False))
        return hash_inputs(opened, source)

    before = hashes()
    change_json(whole / "tokenizer_config.json", note="another")
    assert list(before) == list(hashes()) == [whole / "checkpoint-9"]
    assert before != hashes()


def test_all_shards_of_a_split_file_are_counted(run: Path, tmp_path: Path) -> None:
    _, source, plan = prepare(str(run), [load_profile("q8_0")], Options(verify=False))
    whole, text = tmp_path / "whole.gguf", tmp_path / "text.txt"
    text.write_text("the of and to in is that it was for on are with this have you 123's\n" * 80, encoding="utf-8")
    writer.write(plan, source, [whole], threads=1, progress=lambda _done, _total: None)
    split = GGUFWriter(tmp_path / "split.gguf", "llama", split_max_tensors=8)
    copy_with_new_metadata(GGUFReader(whole), split, {}, [])
    asked = Options(text=text, chunks=1, threads=1)
    first = min(tmp_path.glob("split-00001-of-*.gguf"))
    found = verify_files(str(whole), [first], asked, lambda _step, _done, _total: None)["levels"][0]
    shards = sorted(tmp_path.glob("split-*.gguf"))
    assert len(shards) > 2
    assert found["files"] == [str(shard) for shard in shards]
    assert found["bytes"] == sum(shard.stat().st_size for shard in shards)
    assert found["verdict"] == "pass", json.dumps(found)
