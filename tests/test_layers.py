"""Imports point one way (section 5 of the design), and what only some files may do, only they do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("exporter", "converters", "quant_profiles")
CODE = sorted(file for package in PACKAGES for file in ROOT.glob(f"{package}/**/*.py"))
TABLES = {"decoder", "delta_net", "gemma_layers", "known", "mla", "spec", "rope", "towers", "vision"}
ANY = {"ANY"}

# Run-time imports: part of the pipeline -> parts it may import. `errors` is everybody's.
ARROWS: dict[str, set[str]] = {
    "exporter": set(),  # its public names are imported when they are asked for
    "cli": ANY,
    "pipeline": {
        *("run", "source", "merge", "plan", "profiles", "writer", "outputs", "tokenizer", "verify", "report", "check"),
        "inputs",
    },
    "inputs": {"run", "tokenizer", "outputs"},
    "inspect": {"run", "source", "plan", "report", "vocabulary", "text"},
    "run": {"config", "tokenizer", "converters", "converters.spec"},
    "config": {"converters.spec"},
    "source": {"merge", "vocabulary", "paths", "converters.spec"},
    "merge": {"vocabulary", "converters.spec"},
    "checkpoint": {"run", "source", "merge", "report", "config", "outputs", "text", "converters.spec", "inputs"},
    "merge_check": {"checkpoint", "run", "source", "merge", "text", "converters.spec"},
    # report: how numbers are spelt
    "plan": {"config", "profiles", "tokenizer", "header", "vocabulary", "converters.spec", "report", "text"},
    "slices": set(),
    "writer": {"quantize", "header", "slices"},
    "quantize": {"ggml"},
    "verify": {"llamacpp"},
    "check": {"llamacpp", "tokenizer", "verify", "text", "slices", "quantize", "outputs", "profiles"},
    "profiles": set(),
    "tokenizer": {"vocabulary"},
    "vocabulary": set(),
    # merge: which kinds of weights a merge changed
    "report": {"merge", "vocabulary", "text", "converters.spec"},
    "outputs": {"paths"},
    "paths": set(),
    "text": set(),
    "header": set(),
    "ggml": set(),
    "llamacpp": set(),
    "errors": set(),
    "quant_profiles": set(),
    "converters.spec": set(),
    "converters.decoder": {"converters.spec"},
    "converters.known": set(),
    "converters.gemma_layers": {"converters.decoder", "converters.spec"},
    "converters.delta_net": {"converters.decoder", "converters.spec"},
    "converters.mla": {"converters.decoder", "converters.rope", "converters.spec"},
    "converters.rope": {"converters.spec"},
    "FAMILY": {"PROJECTOR", *(f"converters.{name}" for name in TABLES)},
    "PROJECTOR": {"converters.towers", "converters.vision", "converters.spec"},
    "converters.towers": {"converters.spec"},
    "converters.vision": {"converters.spec"},
    "converters": {"FAMILY", "converters.known", "converters.spec"},
}
SLOW = {"torch", "transformers", "peft", "llama_cpp", "matplotlib", "huggingface_hub"}
"""Imported where they are used, so that ``ggufx --help`` answers at once."""
WIDE = {
    "exporter/tokenizer/special.py": "the tokenizers library raises Exception itself",
    "exporter/tokenizer/render.py": "a template may raise anything",
    "exporter/check/live.py": "transformers and PEFT may raise anything: the proof is skipped, and says what",
}
"""Files beside the commands that may catch Exception, and why."""


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def part(module: str) -> str:
    """The part of the pipeline a module belongs to."""
    package, *rest = module.removesuffix(".__init__").split(".")
    if package == "exporter":
        return rest[0] if rest else "exporter"
    if package == "converters" and rest and rest[0].startswith("vision_"):
        return "PROJECTOR"
    if package == "converters" and rest:
        return f"converters.{rest[0]}" if rest[0] in TABLES else "FAMILY"
    return package


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def at_run_time(node: ast.AST, *, lazy: bool = True) -> Iterator[ast.AST]:
    """All nodes but those under TYPE_CHECKING; without `lazy`, not those in functions either."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from at_run_time(child, lazy=lazy)


def imported(file: Path, *, lazy: bool = True) -> set[str]:
    """The modules a file imports when it runs, or when it is imported."""
    found: set[str] = set()
    for node in at_run_time(tree(file), lazy=lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}:{node.lineno}: imports by a relative name"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            there = {one for one in submodules if (ROOT / one.replace(".", "/")).with_suffix(".py").exists()}
            found |= there | {str(node.module)} if there != submodules else there
    return found


@pytest.mark.parametrize("file", CODE, ids=name)
def test_arrows(file: Path) -> None:
    own = part(".".join(file.relative_to(ROOT).with_suffix("").parts))
    assert own in ARROWS, f"{own} is new: say in ARROWS what it may import"
    others = imported(file)
    assert not {one for one in others if one.split(".")[0] in {"tests", "benchmarks", "examples", "docs"}}
    parts = {part(one) for one in others if one.split(".")[0] in PACKAGES}
    family = own == "FAMILY" and any(part(one) == "FAMILY" for one in others if one.startswith("converters."))
    assert not family, "a family imports a family"
    assert ARROWS[own] is ANY or not parts - ARROWS[own] - {own, "errors"}


def test_arrows_point_one_way() -> None:
    TopologicalSorter({one: others - ANY for one, others in ARROWS.items()}).prepare()


def test_every_part_is_there() -> None:
    there = {part(".".join(file.relative_to(ROOT).with_suffix("").parts)) for file in CODE}
    assert there == set(ARROWS)


def only(*places: str) -> list[Path]:
    """All other files."""
    return [file for file in CODE if not name(file).startswith(places)]


@pytest.mark.parametrize("file", only("exporter/ggml.py", "exporter/llamacpp/"), ids=name)
def test_only_two_places_touch_ctypes(file: Path) -> None:
    assert not imported(file) & {"ctypes", "cffi", "llama_cpp"}


@pytest.mark.parametrize("file", CODE, ids=name)
def test_slow_libraries_are_imported_where_they_are_used(file: Path) -> None:
    assert not {one.split(".")[0] for one in imported(file, lazy=False)} & SLOW


@pytest.mark.parametrize("file", only("exporter/cli"), ids=name)
def test_only_the_commands_print(file: Path) -> None:
    assert not {one.split(".")[0] for one in imported(file)} & {"click", "logging"}
    called = {ast.unparse(node.func) for node in ast.walk(tree(file)) if isinstance(node, ast.Call)}
    assert not called & {"print", "sys.exit", "sys.stdout.write", "sys.stderr.write", "warnings.warn"}


@pytest.mark.parametrize("file", only("exporter/cli", *WIDE), ids=name)
def test_only_the_commands_catch(file: Path) -> None:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            assert caught not in {"", "Exception", "GgufxError"}, f"line {node.lineno}"
            if caught == "BaseException":
                assert isinstance(node.body[-1], ast.Raise), f"line {node.lineno}: is not raised again"


@pytest.mark.parametrize("file", [file for file in CODE if name(file).startswith("exporter/plan/")], ids=name)
def test_a_plan_reads_no_tensor(file: Path) -> None:
    assert not {one.split(".")[0] for one in imported(file)} & {"torch", "safetensors"}
    assert not {node.attr for node in ast.walk(tree(file)) if isinstance(node, ast.Attribute)} & {"read", "deltas"}


HELP = """
import sys
sys.argv = ["ggufx", "--help"]
from exporter.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
    sys.stderr.write(" ".join(sys.modules))
"""


def test_help_imports_nothing_slow() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True, text=True, timeout=60)
    assert "export" in done.stdout
    assert not set(done.stderr.split()) & (SLOW | {"numpy", "gguf"})
