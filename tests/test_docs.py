"""The documents: generated ones are fresh, commands in them exist, links lead somewhere, nothing names a machine."""

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from shutil import which
from typing import Any

import click
import pytest
import tiny

from converters import ALL, spec
from converters.spec import Family
from exporter.cli import cli
from exporter.profiles import profile_names

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```|((?:^(?:    |\t)[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"`(--[a-z][a-z-]*)")
HOSTS = {
    "ai.google.dev",
    "arxiv.org",
    "example.org",
    "github.com",
    "huggingface.co",
    "lmstudio.ai",
    "ollama.com",
    "www.apache.org",
}
"""Public hosts that may be named; a package index is the business of whoever installs."""
# A folder of one machine: a home, a mount, a temporary place.
ABSOLUTE = re.compile(r"(?:^|[^\w.:/~-])/(?:home|root|work|tmp|Users|mnt|srv)/\w")


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    """The repository's text files."""
    if which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split("\0")
    return [ROOT / one for one in listed if one and (ROOT / one).is_file() and b"\0" not in (ROOT / one).read_bytes()]


def commands(text: str) -> Iterator[list[str]]:
    """Every ggufx command of the code blocks of a document, as words without the first."""
    for match in BLOCK.finditer(text):
        block = (match[1] or match[2]).replace("\\\n", " ")
        for line in block.splitlines():
            stripped = line.strip().removeprefix("$ ")
            if not re.match(r"ggufx\s", stripped):
                continue
            words = shlex.split(stripped, comments=True)
            ends = [index for index, word in enumerate(words) if word in {"|", "&&", "||", ";", ">"}]
            yield words[1 : ends[0] if ends else None]


def check(words: list[str]) -> None:
    """Fail where a command, an option or a level does not exist."""
    if words and words[0] in {"--help", "-h", "--version"}:
        return
    assert words[0] in cli.commands, f"no such command: {words[0]}"
    command = cli.commands[words[0]]
    placeholder = "[OPTIONS]"
    values, rest, _ = command.make_parser(click.Context(command)).parse_args(
        [word for word in words[1:] if word not in {placeholder, "--help", "-h"}]
    )
    assert not rest, f"{words[0]}: {rest} is too much"
    asked = values.get("quant")
    for level in ",".join(asked if isinstance(asked, list | tuple) else ["q4_k_m"]).split(","):
        known = level in profile_names() or level.endswith(".toml") or not level.islower()
        assert known, f"no such level: {level}"


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_commands_exist(file: Path) -> None:
    for words in commands(file.read_text(encoding="utf-8")):
        try:
            check(words)
        except click.UsageError as error:
            pytest.fail(f"ggufx {shlex.join(words)}: {error.format_message()}")


def test_a_wrong_command_would_be_noticed() -> None:
    text = "```\n$ ggufx export run \\\n    --quant q4_k_m,q9 # why\n```\nor\n\n    ggufx plan run --nothing && ls\n"
    found = list(commands(text))
    assert found == [["export", "run", "--quant", "q4_k_m,q9"], ["plan", "run", "--nothing"]]
    with pytest.raises(AssertionError, match="q9"):
        check(found[0])
    with pytest.raises(click.NoSuchOption):
        check(found[1])
    with pytest.raises(AssertionError, match="no such command"):
        check(["exprot"])


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_options_exist(file: Path) -> None:
    if file.parent.name in {"decisions", "benchmarks"}:
        return  # they speak of other programs' options, and of their own
    known = {option for command in cli.commands.values() for one in command.params for option in one.opts}
    assert not set(OPTION.findall(file.read_text(encoding="utf-8"))) - known - {"--help", "--version"}


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_links_lead_somewhere(file: Path) -> None:
    for match in LINK.finditer(file.read_text(encoding="utf-8")):
        target, _, heading = (match[1] or match[2]).partition("#")
        if target.startswith(("https://", "mailto:")):
            continue
        place = file.parent / target if target else file
        assert place.exists(), f"{target} is not there"
        assert place.resolve().is_relative_to(ROOT), f"{target} leaves the repository"
        if heading:
            assert heading in headings(place), f"{target}#{heading}: no such heading"


def headings(file: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


GENERATED = runpy.run_path(str(ROOT / "docs" / "generate.py"))


def test_the_readmes_families_are_fresh() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == GENERATED["readme"](text), "run: python docs/generate.py"


@pytest.mark.parametrize("page", GENERATED["PAGES"])
def test_generated_pages_are_fresh(page: str) -> None:
    if page == "tree" and (which("git") is None or not (ROOT / ".git").exists()):
        pytest.skip("no git repository")
    text = GENERATED["PAGES"][page]()
    assert (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") == text, "run: python docs/generate.py"


def test_the_page_of_commands_names_all() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for one in [*cli.commands, *profile_names(), *(family.name for family in ALL)]:
        assert one in text


def test_an_error_leaves_the_generated_pages_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "recorded", _fails)
    monkeypatch.delitem(sys.modules, "families_page", raising=False)
    written: list[Path] = []
    monkeypatch.setattr(Path, "write_text", lambda place, *_, **__: written.append(place))
    with pytest.raises(FileNotFoundError, match="no golden values"):
        runpy.run_path(str(ROOT / "docs" / "generate.py"), run_name="__main__")
    monkeypatch.delitem(sys.modules, "families_page", raising=False)
    assert not written


def _fails(name: str) -> None:
    message = f"no golden values of {name}"
    raise FileNotFoundError(message)


FAMILY_PAGE = (ROOT / "docs" / "add-a-family.md").read_text(encoding="utf-8")


def test_the_example_of_a_family_is_one() -> None:
    table, _, model = re.findall(r"^```python\n(.*?)^```", FAMILY_PAGE, re.MULTILINE | re.DOTALL)
    made: dict[str, Any] = {}
    models: dict[str, Any] = {}
    exec(table, made)  # noqa: S102  (our own page)
    exec(model, models)  # noqa: S102
    (example,) = models["MODELS"].values()
    (family,) = (one for one in made.values() if isinstance(one, Family))
    assert example.architecture in family.architectures


def test_the_page_of_families_tells_every_word() -> None:
    functions = {name for name in spec.__all__ if name.islower()}
    named = {"name", "architectures", "arch", "tensors", "layouts"}
    words = functions | {field.name for field in fields(Family)} - named
    assert {word for word in words if not re.search(rf"`{word}[`(]", FAMILY_PAGE)} == set()


def test_every_command_explains_itself() -> None:
    for command in cli.commands.values():
        assert command.help
        assert all(one.help for one in command.params if isinstance(one, click.Option))


def test_nothing_names_a_machine() -> None:
    found = []
    for file in tracked():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            strangers = set(re.findall(r"https?://([\w.-]+)", line)) - HOSTS
            if strangers or ABSOLUTE.search(line):
                found.append(f"{name(file)}:{number}: {line.strip()[:100]}")
    assert not found
