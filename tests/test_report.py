"""A report: what is written can be read back and says everything, and another shape is refused by field."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from report_document import FIXTURE, Page, changed

from exporter.errors import OutputError, ReportError
from exporter.report import (
    check_document,
    numbers,
    read_report,
    render_html,
    render_markdown,
    render_table,
    write_report,
)
from exporter.report.picture import draw_pictures

if TYPE_CHECKING:
    from exporter.report.schema import Document

# Every number of the fixture's q4_k_m level and of the whole, as a reader should see it, worked out by hand.
# fmt: off
SHOWN = (
    "105.5 MB", "6.19", "24.96 ± 0.71", "1.0187 ± 0.0041", "0.0311 ± 0.0012", "0.2830", "90.21 ± 0.31", "0.01244",
    "0.07775", "0.8708", "2.053", "1.230e-05", "91.21 ± 0.21", "-0.207 ± 0.035", "2.94", "97.0 ± 1.1", "0.8103",
    "0.8007", "98.82", "96.17 to 101.49", "0.03110", "0.9021", "24.50 ± 0.70", "0.03127", "134 515 008", "422",
    "421", "210", "20 992", "512", "41", "1 400", "0.75", "105 454 144", "95 551 488", "71.0 %", "21.0 %", "< 0.1 %",
    "31 tensors in full", "schema 1", "kld<0.05",
)
# fmt: on


def leaves(value: object) -> list[str]:
    """Return every string of a document, its types' names among them."""
    if isinstance(value, dict):
        names = [name for name in value if name[:1].isupper()]
        return names + [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, str) else []


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    paths = write_report(FIXTURE, tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert read_report(tmp_path) == FIXTURE
    assert read_report(tmp_path / "report.json") == FIXTURE
    assert list(read_report(tmp_path)) == list(FIXTURE)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == render_markdown(FIXTURE)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_html(FIXTURE)
    assert "é" in (tmp_path / "report.json").read_text(encoding="utf-8")


def test_a_path_that_is_not_utf8_survives(tmp_path: Path) -> None:
    document = check_document(changed("run.path", os.fsdecode(b"./r\xfcn")), "here")
    write_report(document, tmp_path)
    assert read_report(tmp_path) == document
    assert "r\\udcfcn" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_field_is_shown() -> None:
    command = ["ggufx export ./support-lora --quant q8_0,q4_k_m --gate 'kld<0.05'"]
    absent = {*FIXTURE["command"], "pass", "fail", "skipped", "undecided"}
    words = [leaf for leaf in leaves(FIXTURE) if leaf not in absent] + command
    page, markdown = Page(render_html(FIXTURE)), render_markdown(FIXTURE)
    assert not page.open
    plain_markdown = re.sub(r"\\([\\`*\[\]|~$_])", r"\1", markdown).replace("&lt;", "<").replace("&gt;", ">")
    for word in [*words, *SHOWN, "✓ pass", "✗ fail", "✗ error", "skipped", "? undecided"]:
        assert word in page.text.replace("\N{NARROW NO-BREAK SPACE}", " "), word
        assert word.removeprefix("✓ ").removeprefix("✗ ").removeprefix("? ") in plain_markdown.replace(
            "\N{NARROW NO-BREAK SPACE}", " "
        ), word


def test_what_was_not_measured_is_never_a_zero() -> None:
    document = cast("Document", {**FIXTURE, "levels": [FIXTURE["levels"][8]]})
    row = next(line for line in render_markdown(document).splitlines() if line.startswith("| `iq2_xxs` | **not"))
    assert row == "| `iq2_xxs` | **not measured** | 2.1 MB | 4.40 |" + " not measured |" * 5
    assert not draw_pictures(document)
    assert "Quality: not measured" in Page(render_html(document)).text
    assert render_table(document).splitlines()[1].split() == [
        "iq2_xxs",
        "2.1",
        "MB",
        "4.40",
        *"-----",
        "not",
        "measured",
    ]


def test_a_document_of_verify_has_no_run() -> None:
    document = check_document(changed("run", ...), "here")
    del document["merge"], document["checks"]
    page = Page(render_html(document))
    assert "Measured files" in page.text
    assert "Kind" not in page.text
    assert render_markdown(document).startswith("# Measured files: SmolLM2")
    assert "report lists no level" in render_markdown(check_document(document | {"levels": []}, "here"))


def test_further_fields_are_allowed_and_shown() -> None:
    document = changed("levels.0.slices", {"code": 0.0123})
    document["memory"] = {"peak": 12345}
    page = Page(render_html(check_document(document, "here")))
    assert '"code": 0.0123' in page.text
    assert '"peak": 12345' in page.text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", ..., r"not a report of ggufx"),
        ("schema", 2, r"schema: found 2, expected 1\. Another version"),
        ("schema", True, r"schema: found True, expected 1"),
        ("levels", ..., r"levels: found no such field, expected a list"),
        ("levels", {}, r"levels: found \{\}, expected a list"),
        ("levels.2.bytes", 1.5, r"levels\[2\]\.bytes: found 1\.5, expected a whole number"),
        ("levels.2.bytes", True, r"levels\[2\]\.bytes: found True, expected a whole number"),
        ("levels.2.quant", ..., r"levels\[2\]\.quant: found no such field, expected a string"),
        ("levels.2.verdict", "good", r"levels\[2\]\.verdict: found 'good', expected one of 'pass', 'fail'"),
        ("levels.2.kld.mean", math.nan, r"levels\[2\]\.kld\.mean: found nan, expected a finite number"),
        ("levels.2.kld.mean", "0.1", r"levels\[2\]\.kld\.mean: found '0\.1', expected a finite number"),
        ("levels.2.kld.mean", ..., r"levels\[2\]\.kld\.mean: found no such field, expected a finite number"),
        ("levels.2.types.Q4_K", "x", r"levels\[2\]\.types\.Q4_K: found 'x', expected a whole number"),
        ("run.kind", "qlora", r"run\.kind: found 'qlora', expected one of 'lora', 'full', 'checkpoint'"),
        ("warnings", "x" * 99, r"warnings: found 'x{59}…, expected a list"),
    ],
)
def test_another_shape_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(ReportError, match=r"^there/report\.json: .*" + message):
        check_document(changed(path, value), "there/report.json")


@pytest.mark.parametrize("document", [None, [], "report", 1, {}])
def test_what_is_no_report_is_refused(document: object) -> None:
    with pytest.raises(ReportError, match="not a report of ggufx"):
        check_document(document, "there")


def test_the_fixture_and_its_nulls_are_accepted() -> None:
    assert check_document(FIXTURE, "here") is FIXTURE
    for field in ("run", "merge", "checks", "measured_on", "reference", "warnings"):
        document = check_document(changed(field, None), "here")
        assert render_html(document)
        assert render_markdown(document)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_infinite_number_is_written(value: float, tmp_path: Path) -> None:
    for path in ("levels.0.kld.p99", "memory"):
        with pytest.raises(ReportError, match=r"report\.json: .*finite"):
            write_report(cast("Document", changed(path, value)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"report\.json: there is no such file: expected .* Give the folder"):
        read_report(tmp_path)
    for text in ("{", '{"schema": 1, "levels": NaN}', "\ufeff{}", "[" * 100_000):
        (tmp_path / "report.json").write_text(text, encoding="utf-8")
        with pytest.raises(ReportError, match=r"report\.json: found text that is not JSON"):
            read_report(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ReportError, match=r"report\.json: found text that is not JSON"):
        read_report(tmp_path)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"report\.json: the report cannot be written: No such file"):
        write_report(FIXTURE, tmp_path / "none")


def test_the_table_is_aligned_within_100_columns() -> None:
    lines = render_table(FIXTURE).splitlines()
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 100
    assert table[0].split() == ["level", "size", "bpw", "perplexity", "ratio", "KLD", "p99", "top-1", "%", "verdict"]
    ends = [re.search(r"MB", line).end() for line in table[1:] if "MB" in line]  # type: ignore[union-attr]
    assert len(ends) == 9
    assert set(ends) == {re.search("size", table[0]).end()}  # type: ignore[union-attr]
    row = next(line for line in table if line.startswith("q4_k_m"))
    cells = "q4_k_m 105.5 MB 6.19 24.96±0.71 1.0187±0.0041 0.0311±0.0012 0.283 90.21±0.31 undecided"
    assert row.split() == cells.split()
    assert "error: q3_k_s: llama.cpp could not evaluate the file: out of memory" in lines
    assert "at chunk 7 of 40: give fewer --threads." in lines
    assert any(line.startswith("warning: The tokenizer") for line in lines)


def test_long_level_names_fold_and_are_kept_whole() -> None:
    document = check_document(changed("levels.3.quant", "a-profile-of-my-own-with-a-[red]-very-long-name"), "here")
    lines = render_table(document).split("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= 100
    start = next(i for i, line in enumerate(lines) if line.startswith("a-prof"))
    name = "".join(line.split()[0] for line in lines[start : start + 7])
    assert name.startswith("a-profile-of-my-own-with-a-[red]-very-long-name")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (25.1, 0.7, "25.10 ± 0.70"),
        (1.02, 0.004, "1.0200 ± 0.0040"),
        (0.031, 0.000996, "0.0310 ± 0.0010"),
        (1234.5, 123.4, "1234 ± 123"),
        (0.0000123, 0.0000011, "(1.23 ± 0.11)e-05"),
        (1.23e-7, 1.1e-8, "(1.23 ± 0.11)e-07"),
        (-0.0001, 0.13, "0.00 ± 0.13"),
        (24.4986, None, "24.50"),
        (0.0, 0.0, "0"),
        (None, 0.1, "not measured"),
    ],
)
def test_values_with_errors(value: float | None, error: float | None, text: str) -> None:
    assert numbers.with_error(value, error) == text


def test_other_numbers() -> None:
    sizes = {
        999: "999 bytes",
        1000: "1.0 kB",
        105_454_144: "105.5 MB",
        999_960_000: "1.00 GB",
        4_370_000_000: "4.37 GB",
    }
    assert {count: numbers.size(count) for count in sizes} == sizes
    assert [numbers.plain(v) for v in (0.0311, 2.0, 123456.0, 0.0000123, -0.5)] == [
        *("0.03110", "2.000", "123456", "1.230e-05", "-0.5000")
    ]
    assert numbers.percent(0.92, 0.003) == "92.00 ± 0.30"
    assert numbers.percent(0.92, None) == "92.00"
    assert numbers.share(1, 3) == "33.3 %"
    assert numbers.share(1, 10**6) == "< 0.1 %"
    assert numbers.bits(None) == numbers.size(None) == numbers.plain(None) == "not measured"
