"""Write this folder's generated pages and the README's families from the code itself: `python docs/generate.py`."""  # noqa: INP001  (a script)

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from converters import ALL
from exporter.cli import cli
from exporter.merge import KINDS
from exporter.merge.lora import VARIANTS
from exporter.merge.methods import MERGED, METHODS, NEEDED, RENAMED
from exporter.profiles import load_profile, profile_names

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DATA = {
    "quant_profiles": "one TOML file for each level",
    "tests/reference/golden": "what llama.cpp's converter made of the tiny models",
    "tests/reference/nf4": "weights that bitsandbytes rounded to 4 bits, and a live QLoRA model's logits",
    "tests/reference/quantized": "weights quantized by other libraries, and what these make of them",
    "tests/reference/perplexity": "two tiny GGUF files, and what llama-perplexity printed of them",
    "examples/folio-4m": "the example's base model, trained by train.py",
    "examples/whence": "the example's fine-tune: a LoRA adapter that says where a passage is from",
}
PLAIN = {
    "LICENSE": "Apache-2.0",
    "pyproject.toml": "the package, its dependencies, the tools' settings",
    ".gitignore": "what is not kept",
    "run": "what CI runs",
    "tree.md": "every file, in a line",
    "real_levels.json": "what each level costs on the real models, as tests/test_real.py measured it",
    "report.png": "the page of the example's report",
    "default.txt": "the evaluation text that comes along, public domain",
    "page.css": "the style of the report's page",
    "heldout.txt": "text that the example was not trained on",
    "questions.jsonl": "questions that the example was not trained on, with answers",
    "jinja.json.xz": "conversations as llama.cpp's own Jinja engine renders them",
    "jinja_golden.cpp": "the program that rendered them, built from llama.cpp's source",
    "corpus.txt": "texts in many scripts that token ids are proved on",
    "mistral_native.json": "what llama.cpp's converter made of tiny models in Mistral's own format",
    "tokenizers.json": "what llama.cpp's converter made of real tokenizers",
    "token_ids.json": "llama.cpp's own vectors, with the parts of the vocabularies that they need",
}
HEAD = """# Commands

Made by `python docs/generate.py` from the commands themselves; a test keeps it fresh. An option means the same wherever
it is. stdout is the result (with `--json` one JSON document and nothing else), stderr is everything else.

| exit status | when |
| --- | --- |
| 0 | done |
| 1 | made, but a level could not be measured, or nothing of a merge be compared: the report, or the table, says why |
| 2 | could not be made, a proof failed (of `check` too), or wrong usage: the message says what to do |
| 130 | interrupted by Ctrl-C |
"""


MERGING = """# What is merged, and how that is known

Made by `python docs/generate.py` from the methods' table (`exporter/merge/methods.py`) and the tests; a test keeps it
fresh. *Equal* means: every weight of a tiny model is that of PEFT's `merge_and_unload` in float32, the difference 0 or
at most 2^-22 of the larger of max|W| and max|delta|. Two notes: DoRA on an embedding takes lengths of columns over all
tokens, which PEFT's float32 rounds more than ours (equal to PEFT in float64, within 2^-20 of PEFT in float32); PEFT's
own merge is wrong for `layer_replication` and for one of two tied matrices, where the live adapter's logits decide.

`ggufx merge RUN --check` compares a run's own weights so: it measures how much each one changed, and lays a sample,
one weight of each kind and of each rank and alpha, beside PEFT's own layer. Where PEFT reads another form than the file
has (`lora_B` packed by expert, pairs of experts from before PEFT 0.19), it is given the file's tensors in its form, and
the table says so. A difference is exit status 2; where nothing could be compared the result is `unproved`, status 1.

`ggufx merge RUN --out DIR` writes the checkpoint with config, tokenizer and templates, the base's licence (files named
LICENSE…, NOTICE…, USE_POLICY…), and `merge.json`: the version of ggufx, the base (name, revision of the Hub's cache,
SHA-256 as in report.json), each adapter (name, method, factor, SHA-256, settings), what the base was rounded to
(`--qlora-base`), how experts are packed, the type, and what `merge` of report.json says of an export.
Repeated layers (`layer_replication`) are written as layers of their own, and a vision tower that training changed is
merged too, both ways, wherever its projector is exported (docs/families.md); otherwise the tower is copied as it is.

LoRA and trainable tokens are merged by rows, {merged} other methods by PEFT itself; {renamed},
with a row of its own.
TINYLORA and UNILORA as PEFT saves them by default are refused, since what they need is not in the file: the table says
what must be set before training.

| method | result | compared with PEFT, or why not |
| --- | --- | --- |
"""


TREE = """# Files

Made by `python docs/generate.py`: the files that git knows, each with the first sentence of what it says of itself;
folders of data in one line. A test keeps it fresh.

"""


def render() -> str:
    """The page: every command with its arguments and options, the families, the levels."""
    commands = [line for name, command in cli.commands.items() for line in describe(name, command)]
    families = [f"| {one.name} | {', '.join(one.architectures)} | {one.arch} |" for one in ALL]
    levels = [load_profile(name) for name in profile_names()]
    rows = [f"| {one.name} | {one.default} | {len(one.rules)} |" for one in levels]
    parts = [
        *commands,
        "\n## Families\n",
        "| family | architectures in config.json | architecture in GGUF |\n| --- | --- | --- |",
        *families,
        "\n## Levels\n",
        "`ggufx profiles LEVEL` prints one. A level may also be a file: [add a profile](add-a-profile.md).\n",
        "| level | type where no rule fits | rules |\n| --- | --- | --- |",
        *rows,
    ]
    return HEAD + "\n".join(parts) + "\n"


def describe(name: str, command: click.Command) -> Iterator[str]:
    """The lines of one command."""
    context = click.Context(command, info_name=f"ggufx {name}")
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    options = [one for one in command.params if isinstance(one, click.Option)]
    yield f"\n## {name}\n"
    yield f"    {' '.join(['ggufx', name, *pieces, *(['[OPTIONS]'] if options else [])])}\n"
    yield " ".join((command.help or "").split())
    if options:
        yield "\n| option | meaning |\n| --- | --- |"
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            yield "| `{}` | {} |".format(record[0], re.sub(r"([|<])", r"\\\1", record[1]))


def merging() -> str:
    """What is merged, by the tests that compare it with PEFT, and what is refused."""
    sys.path.insert(0, str(ROOT / "tests"))
    from peft_cases import CASES  # noqa: PLC0415  (tests are no package)

    cases: dict[str, list[str]] = {}
    for name, case in CASES.items():
        cases.setdefault(case.method, []).append(name)
    merged = [method for method, result in METHODS.items() if result == MERGED and method not in {*KINDS, *RENAMED}]
    renamed = ", ".join(f"{old} is the older name of {new}" for old, new in RENAMED.items())
    head = MERGING.format(merged=len(merged), renamed=renamed)
    rows = [f"| LORA | merged by rows | {len(_tested('test_merge', 'test_lora_parts', 'test_tied'))} tests, below |"]
    for method, result in sorted(METHODS.items()):
        name = f"LORA with {', '.join(f'`{one}`' for one in VARIANTS)}" if method == "LORA" else method
        compared = f"equal: {', '.join(cases.get(method, ()))}"
        compared = f"as {RENAMED[method]}, its name today" if method in RENAMED else compared
        compared += _condition(method)
        how = "merged by rows" if method == "TRAINABLE_TOKENS" else "merged by PEFT, a whole weight at a time"
        rows.append(
            f"| {name} | {how if result == MERGED else 'refused'} | {compared if result == MERGED else result} |"
        )
    lines = [f"- {words}" for words in _tested("test_merge", "test_lora_parts", "test_tied", "test_adapters")]
    heading = "\n\n## What the tests of LoRA and of several adapters say\n\n"
    return head + "\n".join(rows) + heading + "\n".join(lines) + "\n"


def _condition(method: str) -> str:
    """What must be set, so that a method is merged."""
    if method not in NEEDED:
        return ""
    field, value, why = NEEDED[method]
    more = "; refused with several vectors (`weight_tying` 0, PEFT's default)" if method == "TINYLORA" else ""
    return f"; only with `{field}` {str(value).lower()}: otherwise {why}{more}"


def families_page() -> str:
    """Every family with its variants and what they were compared with."""
    sys.path.insert(0, str(ROOT / "docs"))
    import families_page as page  # noqa: PLC0415  (beside this script)

    return page.families_page()


def tokenizers() -> str:
    """Every pre-tokenizer's name, what it cuts like, and what that rests on."""
    sys.path.insert(0, str(ROOT / "docs"))
    import tokenizers_page as page  # noqa: PLC0415  (beside this script)

    return page.tokenizers_page()


def _tested(*files: str) -> list[str]:
    """The tests of some files, as their names say them."""
    trees = [ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")) for file in files]
    functions = [node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name.removeprefix("test_").replace("_", " ") for name in functions if name.startswith("test_")]


def readme(text: str) -> str:
    """The README with its families as they are now."""
    start, end = "<!-- families -->", "<!-- /families -->"
    before, rest = text.split(start)
    return before + start + "\n" + families() + "\n" + end + rest.split(end)[1]


def families() -> str:
    """The families' names, in a sentence."""
    text = f"{len(ALL)} families: {', '.join(family.name for family in ALL)}."
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def tree_page() -> str:
    """The tree of files, as a page."""
    return TREE + "\n".join(tree()) + "\n"


def tree() -> Iterator[str]:
    """The files that git knows, each with the first sentence of what it says of itself; data folders as one line."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    files = {Path(line) for line in listed.stdout.splitlines()} | {Path("docs", f"{name}.md") for name in PAGES}
    seen: set[Path] = set()
    yield "```"
    for file in sorted(files, key=lambda path: (len(path.parts) == 1, path.parts)):
        data = next((parent for parent in file.parents if parent.as_posix() in DATA), None)
        for folder in [*reversed(file.parents)][1:]:
            if folder not in seen:
                seen.add(folder)
                yield _line(folder, f"{folder.name}/", DATA.get(folder.as_posix(), ""))
        if data is None:
            yield _line(file, file.name, _says(ROOT / file))
    yield "```"


def _line(path: Path, name: str, about: str) -> str:
    return f"{'  ' * (len(path.parts) - 1) + name:<30} {about}".rstrip()


def _says(file: Path) -> str:
    """The first sentence of a file about itself."""
    if file.name in PLAIN:
        return PLAIN[file.name]
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    first = text.strip().split("\n\n")[0].split("\n")[0] if file.suffix != ".py" else text.split("\n\n")[0]
    words = re.sub(r"^[#!\s]*(\d+\. )?", "", first.replace("\n", " "))
    return re.split(r"(?<=[a-z0-9)`])[.;] ", words)[0].rstrip(".")


PAGES = {"cli": render, "merging": merging, "families": families_page, "tokenizers": tokenizers, "tree": tree_page}
"""What makes each generated page of this folder."""


if __name__ == "__main__":
    # All are made before the first is written, so that an error leaves the old ones.
    made = {ROOT / "docs" / f"{name}.md": make() for name, make in PAGES.items()}
    made[README] = readme(README.read_text(encoding="utf-8"))
    for place, text in made.items():
        place.write_text(text, encoding="utf-8")
