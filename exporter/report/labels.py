"""Where the names of points go in a picture, so that they can be read when points lie close together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LETTER = 7.4
"""The width of a letter, in units of the picture, for the page's fonts at 13 units: generous for most of them."""
ASCENT, DESCENT = 10.0, 4.0
LONGEST = 24
NEAR = 9.0
REACHES = (NEAR, 18.0, 28.0, 40.0, 54.0, 70.0)
DIRECTIONS = 16
STEEP = 0.5
"""Above and below a point, where a direction's cosine is smaller than this, a name is centred on it."""
PASSES = 4
COVERED_COST, CROSSED_COST, DOUBT_COST, LEAD_COST = 50.0, 150.0, 120.0, 25.0

Place = tuple[float, float]
Line = tuple[Place, Place]


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Return the common area."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)

    def outside(self, frame: "Box") -> float:
        """Return the area that ``frame`` does not cover."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(frame)

    def distance(self, place: Place) -> float:
        """Return how far ``place`` is from the nearest point of the rectangle: 0 within it."""
        across = max(self.left - place[0], 0.0, place[0] - self.right)
        down = max(self.top - place[1], 0.0, place[1] - self.bottom)
        return math.hypot(across, down)


@dataclass(frozen=True)
class Label:
    """A name and where it stands; ``lead`` is where a thin line from its point ends, if it stands far from it."""

    text: str
    x: float
    y: float
    anchor: str
    box: Box
    lead: Place | None


@dataclass(frozen=True)
class Scene:
    """What a label has to keep off: points, boxes, and the lines from other labels to their points."""

    dots: Sequence[Place]
    taken: Sequence[Box]
    lines: Sequence[Line]
    frame: Box


def place(names: Sequence[str], dots: Sequence[Place], taken: Sequence[Box], frame: Box) -> list[Label]:
    """Return a label for each name, beside its point, off the boxes ``taken`` and the other labels.

    Each label in turn takes the best place that the others leave, until none moves. A name that is too long for a
    picture is cut short with an ellipsis.
    """
    labels: list[Label | None] = [None] * len(names)
    for _ in range(PASSES):
        before = list(labels)
        for index, (name, dot) in enumerate(zip(names, dots, strict=True)):
            others = [(label, dots[i]) for i, label in enumerate(labels) if label and i != index]
            boxes = [*taken, *(label.box for label, _ in others)]
            lines = [(start, label.lead) for label, start in others if label.lead]
            scene = Scene([other for other in dots if other != dot], boxes, lines, frame)
            labels[index] = _best(_choices(name, dot), dot, scene)
        if labels == before:
            break
    return [label for label in labels if label]


def _best(choices: Sequence[Label], dot: Place, scene: Scene) -> Label:
    """Return the cheapest choice; what a choice crosses is looked at only where the rest leaves it a chance."""
    best, least = choices[0], math.inf
    for label in choices:
        cost = _cost(label, dot, scene)
        if cost < least:
            cost += CROSSED_COST * _crossings(label, dot, scene)
        if cost < least:
            best, least = label, cost
    return best


def _choices(name: str, dot: Place) -> list[Label]:
    """Return the label in every direction and at every distance, the nearest first and to the right first."""
    text = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    angles = [2 * math.pi * step / DIRECTIONS for step in range(DIRECTIONS)]
    return [_choice(text, dot, reach, angle) for reach in REACHES for angle in angles]


def _choice(text: str, dot: Place, reach: float, angle: float) -> Label:
    across, down = math.cos(angle), math.sin(angle)
    width = LETTER * len(text)
    end = (dot[0] + across * reach, dot[1] + down * reach)
    if abs(across) < STEEP:
        anchor, left = "middle", end[0] - width / 2
        baseline = end[1] + (ASCENT if down > 0 else -DESCENT / 2)
    else:
        anchor, left = ("start", end[0]) if across > 0 else ("end", end[0] - width)
        baseline = end[1] + (ASCENT - DESCENT / 2) / 2 + down * DESCENT
    box = Box(left, baseline - ASCENT, left + width, baseline + DESCENT)
    return Label(text, end[0], baseline, anchor, box, end if reach > NEAR else None)


def _cost(label: Label, dot: Place, scene: Scene) -> float:
    """Return how bad a place is by itself: what it covers, whether it looks like another point's, how far it is."""
    own = label.box.distance(dot)
    covered = sum(label.box.overlap(box) for box in scene.taken) + label.box.outside(scene.frame)
    doubt = not label.lead and any(label.box.distance(other) < own + NEAR for other in scene.dots)
    return COVERED_COST * covered + DOUBT_COST * doubt + (LEAD_COST if label.lead else 0.0) + 2 * own


def _crossings(label: Label, dot: Place, scene: Scene) -> int:
    """Return how many lines the label lies on, and how many points, labels and lines its own line runs over."""
    count = sum(_runs_over(line, label.box) for line in scene.lines)
    if label.lead:
        line = (dot, label.lead)
        count += sum(_runs_over(line, box) for box in scene.taken if box.distance(dot) > 0)
        count += sum(_cross(line, other) for other in scene.lines)
    return count


def _runs_over(line: Line, box: Box) -> bool:
    """Return whether a line passes through a box: it then crosses one of the diagonals."""
    rising = ((box.left, box.bottom), (box.right, box.top))
    falling = ((box.left, box.top), (box.right, box.bottom))
    return _cross(line, rising) or _cross(line, falling)


def _cross(one: Line, two: Line) -> bool:
    return _side(one, two[0]) * _side(one, two[1]) < 0 and _side(two, one[0]) * _side(two, one[1]) < 0


def _side(line: Line, place: Place) -> float:
    """Return on which side of a line a place lies, as a sign: twice the area of their triangle."""
    (x1, y1), (x2, y2) = line
    return (x2 - x1) * (place[1] - y1) - (y2 - y1) * (place[0] - x1)
