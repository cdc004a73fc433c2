"""Size against quality as SVG, drawn by hand: the page's own colours and fonts, the same bytes for the same report."""

from collections.abc import Sequence
from dataclasses import dataclass

from exporter.report.labels import Box, place
from exporter.report.numbers import plain, size, with_error
from exporter.report.scale import Scale, linear, logarithmic
from exporter.report.schema import Document, Level
from exporter.text import html_text as escape

WIDTH, HEIGHT = 480, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 464, 44, 306
RADIUS = 4.5
CAP = 4
WIDE = 10
"""A KL divergence axis is logarithmic when the levels differ by more than this factor."""
SPREAD = 4
"""The same for the axis of file sizes: on a linear one the small files would lie on top of each other."""
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Point:
    """A level in a panel: bytes, the measured value and its standard error (0 where unknown)."""

    label: str
    size: int
    value: float
    error: float


def draw_pictures(document: Document) -> list[str]:
    """Return the panels as SVG texts: mean KL divergence, perplexity ratio; those with nothing measured left out."""
    levels = document["levels"]
    divergence = [_divergence(level) for level in levels]
    ratio = [_ratio(level) for level in levels]
    panels = []
    if points := [point for point in divergence if point]:
        panels.append(_divergence_panel(points))
    if points := [point for point in ratio if point]:
        panels.append(_ratio_panel(points))
    return panels


def not_drawn(document: Document) -> list[str]:
    """Return the names of the levels that no panel shows."""
    return [level["quant"] for level in document["levels"] if not (_divergence(level) or _ratio(level))]


def _divergence(level: Level) -> Point | None:
    kld = level.get("kld")
    return Point(level["quant"], level["bytes"], kld["mean"], max(kld.get("error") or 0.0, 0.0)) if kld else None


def _ratio(level: Level) -> Point | None:
    perplexity = level.get("perplexity")
    value = perplexity.get("ratio") if perplexity else None
    error = perplexity.get("ratio_error") if perplexity else None
    return None if value is None else Point(level["quant"], level["bytes"], value, max(error or 0.0, 0.0))


def _divergence_panel(points: Sequence[Point]) -> str:
    above = [point.value for point in points if point.value > 0]
    high = max(point.value + point.error for point in points)
    if above and max(above) > WIDE * min(above):
        # An error bar that reaches below half the smallest value would stretch the axis without telling more.
        low = min(max(p.value - p.error, p.value / 2) for p in points if p.value > 0)
        return _panel("Mean KL divergence, nats (logarithmic)", points, logarithmic(low, high, BOTTOM, TOP), None)
    low = min(0.0, *(point.value - point.error for point in points))
    return _panel("Mean KL divergence, nats", points, linear(low, high, BOTTOM, TOP), None)


def _ratio_panel(points: Sequence[Point]) -> str:
    low = min(1.0, *(point.value - point.error for point in points))
    high = max(1.0, *(point.value + point.error for point in points))
    return _panel("Perplexity, ratio to the reference", points, linear(low, high, BOTTOM, TOP), 1.0)


def _panel(title: str, points: Sequence[Point], y: Scale, base: float | None) -> str:
    """Return one panel: grid, axes, error bars, points, labels; ``base`` is where a dashed line is drawn."""
    sizes = [point.size for point in points]
    unit, name = next((u for u in UNITS if max(sizes) >= u[0]), (1.0, "bytes"))
    axis = logarithmic if min(sizes) > 0 and max(sizes) > SPREAD * min(sizes) else linear
    name = f"File size, {name}" + (" (logarithmic)" if axis is logarithmic else "")
    x = axis(min(sizes) / unit, max(sizes) / unit, LEFT, RIGHT)
    dots = [(x.at(point.size / unit), y.at(point.value)) for point in points]
    middle = (LEFT + RIGHT) / 2
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}, against file size">',
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
        *_grid(x, y),
        f'<text class="axis" x="{middle:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{name}</text>',
    ]
    if base is not None:
        parts.append(f'<path class="base" d="M{LEFT} {y.at(base):.1f}H{RIGHT}"/>')
    bars = [_bar(point, dot, y) for point, dot in zip(points, dots, strict=True)]
    parts += [path for bar in bars if (path := _bar_path(bar))]
    parts += [_dot(point, dot) for point, dot in zip(points, dots, strict=True)]
    lines = [] if base is None else [Box(LEFT, y.at(base) - 1, RIGHT, y.at(base) + 1)]
    return "\n".join([*parts, *_labels(points, dots, bars + lines), "</svg>"])


def _grid(x: Scale, y: Scale) -> list[str]:
    lines = []
    for value, text in y.ticks:
        lines.append(f'<path class="grid" d="M{LEFT} {y.at(value):.1f}H{RIGHT}"/>')
        lines.append(f'<text class="tick" x="{LEFT - 8}" y="{y.at(value) + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in x.ticks:
        lines.append(f'<path class="grid" d="M{x.at(value):.1f} {TOP}V{BOTTOM}"/>')
        lines.append(f'<text class="tick" x="{x.at(value):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{text}</text>')
    return lines


def _bar(point: Point, dot: tuple[float, float], y: Scale) -> Box:
    """Return the space of a point with its error bar, cut at the edges of the panel."""
    top, bottom = y.at(point.value + point.error), y.at(point.value - point.error)
    return Box(dot[0] - RADIUS, min(top, dot[1] - RADIUS), dot[0] + RADIUS, max(bottom, dot[1] + RADIUS))


def _bar_path(bar: Box) -> str:
    if bar.bottom - bar.top <= 2 * RADIUS:
        return ""
    middle = (bar.left + bar.right) / 2
    caps = "".join(f"M{middle - CAP:.1f} {end:.1f}h{2 * CAP}" for end in (bar.top, bar.bottom))
    return f'<path class="bar" d="M{middle:.1f} {bar.top:.1f}V{bar.bottom:.1f}{caps}"/>'


def _dot(point: Point, dot: tuple[float, float]) -> str:
    value = with_error(point.value, point.error) if point.error else plain(point.value)
    hint = escape(f"{point.label}: {size(point.size)}, {value}")
    if dot[1] >= BOTTOM:
        # Only a value of 0 or less on a logarithmic axis lies on the edge: a triangle that points below it.
        return f'<path class="dot" d="M{dot[0]:.1f} {BOTTOM}l-5 -8h10z"><title>{hint}</title></path>'
    return f'<circle class="dot" cx="{dot[0]:.1f}" cy="{dot[1]:.1f}" r="{RADIUS}"><title>{hint}</title></circle>'


def _labels(points: Sequence[Point], dots: Sequence[tuple[float, float]], taken: Sequence[Box]) -> list[str]:
    lines = []
    frame = Box(LEFT, TOP - 8, WIDTH - 2, BOTTOM)
    names = [point.label for point in points]
    for name, dot, label in zip(names, dots, place(names, dots, taken, frame), strict=True):
        if label.lead:
            ends = f"M{dot[0]:.1f} {dot[1]:.1f}L{label.lead[0]:.1f} {label.lead[1]:.1f}"
            lines.append(f'<path class="lead" d="{ends}"/>')
        text = escape(label.text)
        lines.append(
            f'<text class="label" x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="{label.anchor}">{text}'
            f"{'<title>' + escape(name) + '</title>' if label.text != name else ''}</text>"
        )
    return lines
