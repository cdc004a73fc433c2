"""The page of a report: it cannot be steered by a name in it, needs nothing else, and its picture can be read."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from report_document import FIXTURE, Page, changed

from exporter.report import check_document, render_html, render_markdown, render_table, write_report
from exporter.report.labels import ASCENT, DESCENT, LETTER
from exporter.report.levels import overlapping
from exporter.report.picture import draw_pictures
from exporter.report.scale import linear, logarithmic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def parsed(panel: str) -> ET.Element:
    return ET.fromstring(panel)  # noqa: S314 - our own text


def test_names_cannot_become_markup() -> None:
    nasty = "<script>alert('x')</script>|`*_a_*`&amp;[link](javascript:1)\x1b[31m"
    document = changed("levels.3.quant", nasty)
    document["run"]["base"]["name"] = document["run"]["path"] = document["warnings"][0] = nasty
    document["levels"][3]["fallbacks"][0]["tensor"] = document["measured_on"]["text"] = nasty
    document["levels"][3]["error"] = nasty + "\n```\n# heading"
    document["levels"][3]["slices"] = {"</pre>" + nasty: nasty}
    checked = check_document(document, "here")
    page, table = Page(render_html(checked)), render_table(checked)
    assert "script" not in page.tags
    assert not page.open
    assert page.text.count(nasty.replace("\x1b", r"\x1b")) >= 5
    assert "\x1b" not in table + page.text + render_markdown(checked)
    outside = re.sub(r"(?s)(`{3,})text\n.*?\n\1\n|(`+) ?.*?[^`]\2(?!`)", "", render_markdown(checked))
    assert "<script>" not in outside
    assert "# heading" not in outside.splitlines()
    for panel in draw_pictures(checked):
        parsed(panel)


def test_the_picture_is_wellformed_and_the_same_each_time() -> None:
    panels = draw_pictures(FIXTURE)
    assert len(panels) == 2
    assert panels == draw_pictures(copy.deepcopy(FIXTURE))
    assert render_html(FIXTURE) == render_html(copy.deepcopy(FIXTURE))
    for panel in panels:
        root = parsed(panel)
        assert len(root.findall("circle")) == 7
        assert {text.text for text in root.findall("text[@class='label']")} == {
            level["quant"] for level in FIXTURE["levels"] if level.get("kld")
        }
    assert "logarithmic" in panels[0]


def boxes(panel: str) -> list[tuple[str, float, float, float, float]]:
    """Return name, left, top, right, bottom of every label of a panel."""
    found = []
    for label in parsed(panel).findall("text[@class='label']"):
        text, x, y = label.text or "", float(label.get("x", "")), float(label.get("y", ""))
        anchor = label.get("text-anchor", "")
        left = x - LETTER * len(text) * {"start": 0, "middle": 0.5, "end": 1}[anchor]
        found.append((text, left, y - ASCENT, left + LETTER * len(text), y + DESCENT))
    return found


@pytest.mark.parametrize("spread", [1.0, 0.02])
def test_labels_never_overlap_nor_leave_the_picture(spread: float) -> None:
    document = copy.deepcopy(FIXTURE)
    for level in document["levels"]:
        level["bytes"] = int(100e6 + spread * (level["bytes"] - 100e6))
    document["levels"][-1]["bytes"] = 40_000_000
    document["levels"][-1]["kld"] = {"mean": 0.5}
    for panel in draw_pictures(document):
        places = boxes(panel)
        for index, (name, left, top, right, bottom) in enumerate(places):
            assert left >= 0, name
            assert right <= 480, name
            assert top >= 0, name
            assert bottom <= 360, name
            for other, left2, top2, right2, bottom2 in places[:index]:
                apart = left >= right2 or left2 >= right or top >= bottom2 or top2 >= bottom
                assert apart, (name, other)


def test_a_divergence_of_zero_has_a_place_on_a_logarithmic_axis() -> None:
    document = check_document(changed("levels.0.kld.mean", 0.0), "here")
    root = parsed(draw_pictures(document)[0])
    assert len(root.findall("circle")) == 6
    assert len(root.findall("path[@class='dot']")) == 1
    one = check_document(document | {"levels": document["levels"][:1]}, "here")
    assert "logarithmic" not in draw_pictures(one)[0]


def test_axes() -> None:
    axis = linear(0.0, 10.0, 100.0, 200.0)
    assert [text for _, text in axis.ticks] == ["0", "5", "10"]
    assert axis.at(5.0) == pytest.approx(150.0)
    assert axis.at(1e9) == 200.0
    axis = logarithmic(0.001, 10.0, 300.0, 0.0)
    assert [text for _, text in axis.ticks] == ["0.001", "0.01", "0.1", "1", "10"]
    assert axis.at(0.1) == pytest.approx(150.0)
    assert axis.at(0.0) == axis.at(-1.0) == 300.0
    assert [text for _, text in logarithmic(0.011, 0.3, 0.0, 1.0).ticks] == ["0.01", "0.02", "0.05", "0.1", "0.2"]
    assert len(linear(1.0, 1.0, 0.0, 1.0).ticks) > 1


def test_the_page_needs_nothing_else() -> None:
    page = render_html(FIXTURE)
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page
    shown = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & shown.tags
    assert not [name for _, name, _ in shown.attributes if name in {"src", "href", "srcset"} or name.startswith("on")]
    assert "<title>HuggingFaceTB/SmolLM2-135M-Instruct: support-lora</title>" in page


def test_overlapping_intervals_are_not_ranked() -> None:
    assert overlapping(FIXTURE["levels"]) == [("q4_k_m", "iq4_xs")]
    assert "do not rank these: q4_k_m and iq4_xs." in Page(render_html(FIXTURE)).text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the page with: apt-get install chromium")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    page = write_report(FIXTURE, tmp_path)[2]
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2400"]
    command = [str(CHROMIUM), *flags, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000
