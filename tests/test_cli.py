"""The commands as a shell sees them: exit status, stdout, stderr."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from exported import COMMAND, change_json
from tiny import TINY, make

from converters import ALL
from exporter import cli
from exporter.profiles import profile_names
from exporter.report import check_document

Q8 = "run-139K-Q8_0.gguf"


@dataclass(frozen=True)
class Done:
    """A command's end."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:  # noqa: ANN401  (JSON)
        """Stdout as one JSON document and nothing else."""
        return json.loads(self.out)


Ggufx = Callable[..., Done]


@pytest.fixture
def ggufx(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ggufx]:
    """Run a command in this process, which spares the imports; stderr is no terminal."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["ggufx", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert isinstance(stop.value.code, int)
        return Done(stop.value.code, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


def in_a_shell(*arguments: str | Path) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run commands in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("the of and to in is that it was for on are with this have you 123's\n" * 80, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("runs") / "run")


@dataclass(frozen=True)
class Exported:
    """An export of two levels in a process of its own; its folder is not to be changed."""

    out: Path
    done: Done
    text: Path


@pytest.fixture(scope="module")
def exported(run: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("exported") / "out"
    done = in_a_shell("export", run, "--quant", "q8_0,q4_0", "--text", text, "--chunks", "2", "--out", out)
    return Exported(out, done, text)


# Results on stdout, everything else on stderr.


def test_an_export_prints_its_table_and_where_the_report_is(exported: Exported) -> None:
    out, done = exported.out, exported.done
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["level", "size", "bpw"]
    assert [line.split()[0] for line in lines[1:3]] == ["q8_0", "q4_0"]
    assert lines[-1] == str(out / "report.html")
    steps = ("write", "prove", "measure")
    assert [line for line in done.err.splitlines() if line.partition(":")[0] not in steps] == []
    assert {line.partition(":")[0] for line in done.err.splitlines()} == set(steps)
    assert "measure: 100 %" in done.err
    assert "\r" not in done.err
    assert "\x1b" not in done.err + done.out


def test_json_is_one_document_and_quiet_is_silent(ggufx: Ggufx, run: Path, text: Path, tmp_path: Path) -> None:
    options = ("--text", text, "--chunks", "1", "--out", tmp_path / "out", "--json", "--quiet")
    done = ggufx("export", run, "--quant", "q8_0", *options)
    assert (done.status, done.err) == (0, "")
    assert done.document == json.loads((tmp_path / "out" / "report.json").read_text())
    assert check_document(done.document, "stdout")["levels"][0]["quant"] == "q8_0"
    assert done.document["command"][:2] == ["ggufx", "export"]


def test_inspect(ggufx: Ggufx, run: Path) -> None:
    facts = ggufx("inspect", run, "--json").document
    assert (facts["family"], facts["kind"], facts["layers"], facts["stored_as"]) == ("llama", "checkpoint", 2, ["F32"])
    assert facts["tokenizer"]["special"].keys() >= {"bos", "eos"}
    plain = ggufx("inspect", run)
    assert plain.status == 0
    assert "family: llama\n" in plain.out
    assert "license:\n  run: none\n  base: none\n" in plain.out
    eos = facts["tokenizer"]["special"]["eos"]
    assert f"    eos: {eos['id']} {eos['text']} ({eos['source']})\n" in plain.out
    (run / "README.md").write_text("---\nlicense: mit\n---\n# A model\n", encoding="utf-8")
    assert ggufx("inspect", run, "--json").document["license"] == {"run": "mit", "base": "mit"}
    assert plain.err == ""


def test_plan_writes_nothing(ggufx: Ggufx, run: Path, here: Path) -> None:
    document = ggufx("plan", run, "--quant", "q4_k_m,f16", "--json").document
    assert [file["quant"] for file in document["files"]] == ["q4_k_m", "f16"]
    plain = ggufx("plan", run)
    assert (plain.status, plain.err) == (0, "")
    assert "blk.{0-1}.attn_q.weight" in plain.out
    assert list(here.iterdir()) == []


def test_families_and_profiles(ggufx: Ggufx) -> None:
    rows = ggufx("families", "--json").document
    assert [row["family"] for row in rows] == [family.name for family in ALL]
    listed = ggufx("families").out
    assert all(tiny.architecture in listed for tiny in TINY.values())
    assert [row["name"] for row in ggufx("profiles", "--json").document] == list(profile_names())
    lines = ggufx("profiles").out.splitlines()
    assert [line.split()[0] for line in lines] == list(profile_names())
    assert len({line.rindex("  ") for line in lines}) == 1  # columns
    text = ggufx("profiles", "q4_k_m").out
    assert ggufx("profiles", "q4_k_m", "--json").document["text"] == text
    assert 'default   = "Q4_K"' in text


def test_report_renders_again(ggufx: Ggufx, exported: Exported, tmp_path: Path) -> None:
    out, done = exported.out, exported.done
    (tmp_path / "report.json").write_bytes((out / "report.json").read_bytes())
    again = ggufx("report", tmp_path)
    assert again.status == 0
    assert again.out.splitlines()[:-1] == done.out.splitlines()[:-1]
    for name in ("report.md", "report.html"):
        assert (tmp_path / name).read_text() == (out / name).read_text()
    assert ggufx("report", tmp_path / "report.json", "--json").document == json.loads((out / "report.json").read_text())


def test_a_folder_whose_name_is_not_in_utf_8_is_printed(ggufx: Ggufx, exported: Exported, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "report.json").write_bytes((exported.out / "report.json").read_bytes())
    assert ggufx("report", folder).out.splitlines()[-1] == rf"{tmp_path}/\udcff/report.html"
    done = ggufx("plan", make("llama", folder / "run"))
    assert (done.status, done.out) == (2, "")
    assert rf"error: {tmp_path}/\xff/run/model.safetensors: this path is not in UTF-8" in done.err


def test_a_reader_may_stop_reading(run: Path) -> None:
    with subprocess.Popen([*COMMAND, "plan", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""


# Verify.


def test_verify_measures_against_a_file_or_a_folder(ggufx: Ggufx, run: Path, exported: Exported, here: Path) -> None:
    out = exported.out
    files = (out / Q8, out / "run-139K-Q4_0.gguf", "--text", exported.text, "--chunks", "2", "--json")
    report = json.loads((out / "report.json").read_text())
    document = check_document(ggufx("verify", run, *files).document, "stdout")
    for found, expected in zip(document["levels"], report["levels"], strict=True):
        assert (found["quant"], found["bytes"], found["verdict"]) == (expected["quant"], expected["bytes"], "pass")
        assert found["kld"] == expected["kld"]  # the same bf16 reference, the same windows
        assert found["file"] == str(out / expected["file"])
    assert document["measured_on"] == report["measured_on"]
    assert "run" not in document
    itself = ggufx("verify", out / Q8, *files).document
    assert itself["reference"]["kind"] == "q8_0"
    assert itself["levels"][0]["kld"]["mean"] == pytest.approx(0, abs=1e-6)
    assert list(here.iterdir()) == []


def test_verify_says_what_cannot_be_measured(ggufx: Ggufx, exported: Exported, tmp_path: Path) -> None:
    out, text = exported.out, exported.text
    whole = (out / Q8).read_bytes()
    for name, data in (("garbage", b"x" * 999), ("head", whole[:300]), ("cut", whole[:20_000]), ("short", whole[:-1])):
        (tmp_path / f"{name}.gguf").write_bytes(data)
    damaged = sorted(tmp_path.glob("*.gguf"))
    done = ggufx("verify", out / Q8, *damaged, out / Q8, "--text", text, "--chunks", "1", "--json")
    assert done.status == 1
    verdicts = [level["verdict"] for level in done.document["levels"]]
    assert verdicts == ["error", "error", "error", "error", "pass"]
    for level, file in zip(done.document["levels"], damaged, strict=False):
        assert f"{file}: llama.cpp could not load this file" in level["error"]
    assert "error: head: " in ggufx("verify", out / Q8, tmp_path / "head.gguf", "--text", text).out
    broken = ggufx("verify", tmp_path / "head.gguf", out / Q8, "--text", text)
    assert (broken.status, broken.out) == (2, "")  # nothing can be measured without a reference
    assert "head.gguf: llama.cpp could not load this file" in broken.err


# What is refused: status 2, a message on stderr, nothing on stdout.

USAGE = {
    "an unknown option": (("export", "RUN", "--imatrix", "auto"), "No such option '--imatrix'"),
    "an unknown command": (("exprot", "RUN"), "No such command 'exprot'"),
    "no run": (("export",), "Missing argument 'RUN'"),
    "no windows": (("export", "RUN", "--chunks", "0"), "0 is not in the range x>=1"),
    "an unknown level": (("export", "RUN", "--quant", "q4_k_n"), "q4_k_m"),
    "a level of another time": (("plan", "RUN", "--quant", "q4"), "q4_"),
    "a level twice": (("export", "RUN", "--quant", "q8_0,q8_0"), "--quant q8_0,q8_0: q8_0 is named twice"),
    "no level": (("export", "RUN", "--quant", ","), "names no level"),
    "no folder": (("inspect", "nowhere"), "nowhere: there is no such folder"),
    "no text": (("export", "RUN", "--text", "nowhere.txt"), "nowhere.txt: the evaluation text cannot be read"),
    "another compat": (("export", "RUN", "--compat", "ollama"), "'ollama' is not 'llama.cpp'"),
    "a base for a model": (("export", "RUN", "--base", "RUN"), "so --base"),
    "no fallback": (
        ("export", "RUN", "--quant", "q4_k_m", "--no-fallback"),
        "cannot be Q6_K (row of 64) and would become Q8_0",
    ),
    "no report": (("report", "RUN"), "report.json: there is no such file"),
    "no file": (("verify", "RUN", "nowhere.gguf"), "'nowhere.gguf' does not exist"),
    "no scratch": (("export", "RUN", "--scratch", "nowhere"), "'nowhere' does not exist"),
    "no profile": (("profiles", "q9"), "q9"),
}


@pytest.mark.parametrize("case", USAGE)
def test_what_is_refused(case: str, ggufx: Ggufx, run: Path, here: Path) -> None:
    arguments, message = USAGE[case]
    done = ggufx(*(run if argument == "RUN" else argument for argument in arguments))
    assert (done.status, done.out) == (2, "")
    assert message in " ".join(done.err.split())
    assert list(here.iterdir()) == []


def test_an_existing_file_is_refused_and_kept(ggufx: Ggufx, run: Path, tmp_path: Path) -> None:
    (tmp_path / Q8).write_bytes(b"mine")
    arguments = ("export", run, "--quant", "q8_0", "--no-verify", "--out", tmp_path)
    done = ggufx(*arguments)
    assert (done.status, done.out) == (2, "")
    assert f"error: {tmp_path / Q8}: exists already" in done.err
    assert (tmp_path / Q8).read_bytes() == b"mine"
    assert [file.name for file in tmp_path.iterdir()] == [Q8]
    assert ggufx(*arguments, "--overwrite").status == 0
    assert (tmp_path / Q8).read_bytes()[:4] == b"GGUF"


def test_damaged_weights_are_refused(ggufx: Ggufx, tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run")
    file = run / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    done = ggufx("export", run, "--out", tmp_path / "out")
    assert (done.status, done.out) == (2, "")
    assert f"error: {file}: is no whole safetensors file" in done.err
    change_json(run / "config.json", architectures=["LlamaForCausalLn"])
    assert "Names that are spelt alike: LlamaForCausalLM" in ggufx("export", run, "--out", tmp_path / "out").err
    assert not (tmp_path / "out").exists()


def test_a_profile_of_ones_own_is_a_level(ggufx: Ggufx, run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "mine"\nfile_type = "MOSTLY_Q8_0"\ndefault = "Q5_1"\n')
    done = ggufx("export", run, "--quant", f"{mine},q8_0", "--no-verify", "--out", tmp_path / "out", "--json")
    assert done.status == 0
    assert [level["quant"] for level in done.document["levels"]] == ["q8_0", "mine"]  # the largest first
    assert done.document["levels"][1]["file"] == "run-139K-MINE.gguf"
    assert set(done.document["levels"][1]["types"]) == {"Q5_1", "F32"}
