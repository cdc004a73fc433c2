"""Names that would steer a terminal are escaped wherever they are shown; JSON is valid whatever they hold."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from adapters import PAIR, write_adapter
from click.testing import CliRunner
from exported import COMMAND
from tiny import make

from exporter.cli import cli
from exporter.report.markdown import escape
from exporter.text import html_text, json_text, printable, printable_lines

ODD = "a\x1b[31m\x07\x9b\u202e\nfake: yes\ud800"
ESCAPED = r"a\x1b[31m\x07\x9b\u202e\nfake: yes\ud800"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("llama") / "base")


def test_what_is_no_sign_is_escaped() -> None:
    assert printable(ODD) == ESCAPED
    assert printable_lines(f"{ODD}\n\ta") == ESCAPED.replace(r"\n", "\n") + "\n\ta"
    assert html_text("<\x1b>") == r"&lt;\x1b&gt;"
    assert escape("a\x1b\nb") == r"a\\x1b b"
    plain = "Größe 模型 \u00a0 क्\u200dष 👩\u200d💻"
    assert printable(plain) == plain


def test_json_says_the_same_in_any_encoding() -> None:
    document = {ODD: [ODD, {"Größe": 1.5}], "lines": "a\nb"}
    text = json_text(document)
    assert json.loads(text.encode()) == document
    assert all(line.isprintable() for line in text.split("\n"))
    assert "Größe" in text
    assert json.loads(json_text({"a": (float("nan"), [float("inf")]), "b": 2.0})) == {"a": [None, [None]], "b": 2.0}


def steers(text: str) -> bool:
    spaces = "\u00a0\u2009\u202f"  # which reports have between a number and its unit
    return any(not line.isprintable() for line in text.translate(dict.fromkeys(map(ord, spaces))).split("\n"))


@pytest.mark.parametrize("command", [["inspect"], ["plan"], ["merge", "--check"], ["export", "--no-verify"]])
@pytest.mark.parametrize("as_json", [True, False])
def test_no_command_lets_a_run_steer_the_terminal(
    command: list[str],
    as_json: bool,  # noqa: FBT001
    base: Path,
    tmp_path: Path,
) -> None:
    fields = {"target_modules": ["layers.0.self_attn.q_proj", ODD], "peft_version": ODD}
    run = write_adapter(tmp_path / f"run{ODD[:12]}", base, {}, **fields)
    (run / "README.md").write_text('---\nlicense: "mit\\e[31m"\ndatasets: ["d\\a\\nfake"]\n---\n')
    out = ["--out", str(tmp_path / "out")] if command[0] == "export" else []
    done = CliRunner().invoke(cli, [command[0], str(run), *command[1:], *out, *(["--json"] if as_json else [])])
    assert done.exception is None
    assert not steers(done.stdout)
    assert "fake: yes" not in done.stdout.split("\n")
    if as_json:
        json.loads(done.stdout)
    if command == ["inspect"]:
        assert (r"\u001b[31m" if as_json else r"\x1b[31m") in done.stdout
    for file in (tmp_path / "out").glob("report.[mh]*"):
        assert not steers(file.read_text())


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--base"], ["nothing"]])
def test_no_error_lets_a_run_steer_the_terminal(words: list[str], base: Path, tmp_path: Path) -> None:
    odd = ODD[:-1]
    name = f"base_model.model.model.layers.0.self_attn.q_proj.{odd}"
    run = write_adapter(tmp_path / "run", base, {**PAIR, name: torch.zeros(2)})
    asked = [*words, odd] if len(words) > 1 or words == ["nothing"] else words
    line = [*COMMAND, *asked, *([] if words == ["nothing"] else [str(run)])]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert not steers(done.stderr)
    first, *others = done.stderr.splitlines()
    assert words == ["nothing"] or (first.startswith("error: ") and all(line.startswith("  ") for line in others))
    assert words == ["nothing"] or r"\x1b[31m\x07" in done.stderr
