"""Rule 10 and rule 3 over the code itself: small enough to see at once; a family is a table."""

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from converters import ALL
from exporter.profiles import profile_names

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted([*ROOT.glob("exporter/**/*.py"), *ROOT.glob("converters/**/*.py"), *ROOT.glob("quant_profiles/*.py")])
SHARED = {"__init__", "spec", "decoder", "delta_net", "gemma_layers", "known", "mla", "rope", "towers", "vision"}
FAMILIES = [file for file in ROOT.glob("converters/*.py") if file.stem not in SHARED]

FILE, FUNCTION, NESTING, POSITIONAL, TABLE = 300, 40, 3, 4, 60
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
NO_TABLE = (*BLOCKS, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.IfExp, ast.comprehension)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def functions(file: Path) -> Iterator[Function]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def depth(node: ast.AST) -> int:
    """How many blocks stand in one another; an `elif` is no deeper than its `if`, an inner function begins anew."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, Function):
                continue
            chained = isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If) and len(value) == 1
            deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not chained))
    return deepest


def positional(function: Function) -> int:
    named = [*function.args.posonlyargs, *function.args.args]
    return len(named) - bool(named and named[0].arg in {"self", "cls"})


@pytest.mark.parametrize("file", CODE, ids=name)
def test_sizes(file: Path) -> None:
    found = [f"{name(file)}: {len(lines)} lines"] if len(lines := file.read_text().splitlines()) > FILE else []
    for function in functions(file):
        where = f"{name(file)}:{function.lineno} {function.name}:"
        length = (function.end_lineno or 0) - function.lineno + 1
        found += [f"{where} {length} lines"] if length > FUNCTION else []
        found += [f"{where} {depth(function)} blocks deep"] if depth(function) > NESTING else []
        found += [f"{where} {positional(function)} positional"] if positional(function) > POSITIONAL else []
    assert not found


def test_half_of_the_functions_are_short() -> None:
    lengths = sorted((one.end_lineno or 0) - one.lineno + 1 for one in chain.from_iterable(map(functions, CODE)))
    # Docstrings count, and most functions here have one of several lines; without them the median is under ten.
    assert lengths[len(lengths) // 2] <= 14


def test_depth_is_measured() -> None:
    text = "def f():\n if a:\n  for b in c:\n   pass\n elif d:\n  with e:\n   while g:\n    pass\n"
    assert depth(ast.parse(text).body[0]) == 3


@pytest.mark.parametrize("file", FAMILIES, ids=name)
def test_a_family_is_a_table(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= TABLE
    assert [type(node).__name__ for node in ast.walk(ast.parse(text)) if isinstance(node, NO_TABLE)] == []


def test_every_family_file_is_registered_and_tested() -> None:
    stems = {file.stem for file in FAMILIES}
    names = {family.name for family in ALL}
    eyes = {stem for stem in stems if stem.startswith("vision_")}
    assert stems - eyes == {one.replace("-", "_") for one in names}
    assert eyes == {f"vision_{family.projector.table.name}" for family in ALL if family.projector}


def test_every_profile_file_is_a_level() -> None:
    assert {file.stem for file in ROOT.glob("quant_profiles/*.toml")} == set(profile_names())
