"""Orders: which rows of a weight a tensor takes, by numbers of the config."""

from converters.spec.derive import whole
from converters.spec.values import Config, Order, Span


def part_of_each(count: str, parts: tuple[str, ...], k: int) -> Order:
    """Of each of so many groups of rows the k-th of its parts.

    Args:
        count: the config field that says how many groups there are.
        parts: the config fields that say how many rows each part of a group has.
        k: which of the parts is taken.
    """

    def order(config: Config, height: int) -> tuple[Span, ...]:
        groups, sizes = whole(config, count), [whole(config, part) for part in parts]
        if groups * sum(sizes) != height:
            raise ValueError(f"{groups} ({count}) times {' + '.join(parts)} make {groups * sum(sizes)} rows")
        starts = (group * sum(sizes) + sum(sizes[:k]) for group in range(groups))
        return tuple((start, start + sizes[k], 1) for start in starts)

    return order


def equal_part(k: int, *, of: int) -> Order:
    """The k-th of so many equal parts of the rows."""

    def order(_: Config, height: int) -> tuple[Span, ...]:
        if height % of:
            raise ValueError(f"it cannot be cut into {of} equal parts")
        return ((k * height // of, (k + 1) * height // of, 1),)

    return order


def each_nth(k: int, *, of: int) -> Order:
    """Every so-manyth row (or column), from the k-th on."""

    def order(_: Config, height: int) -> tuple[Span, ...]:
        if height % of:
            raise ValueError(f"{height} are not a multiple of {of}")
        return ((k, height, of),)

    return order


def parts_in_turn(count: str, *, of: int) -> Order:
    """Of so many groups of equal parts all first parts, then all second ones, and so on.

    Args:
        count: the config field that says how many groups there are.
        of: how many parts each group has.
    """

    def order(config: Config, height: int) -> tuple[Span, ...]:
        groups = whole(config, count)
        part = height // (groups * of)
        if groups * of * part != height:
            raise ValueError(f"{height} rows are not {groups} ({count}) groups of {of} equal parts")
        starts = ((group * of + k) * part for k in range(of) for group in range(groups))
        return tuple((start, start + part, 1) for start in starts)

    return order


def one_after_another(*orders: Order) -> Order:
    """The rows of several orders, each behind the one before."""
    return lambda config, height: tuple(span for order in orders for span in order(config, height))


def tiled(heads: str, *, of: str, width: str | None = None, behind: str | None = None) -> Order:
    """Heads that are stored by groups, in turn: the first of each group, then the second of each, and so on.

    Args:
        heads: the config field that says how many heads there are.
        of: the config field that says how many groups they are of.
        width: the config field that says how many rows a head has; None: one.
        behind: the config field that says how many rows before them stay; None: none.
    """

    def order(config: Config, height: int) -> tuple[Span, ...]:
        count, groups = whole(config, heads), whole(config, of)
        wide, first = whole(config, width) if width else 1, whole(config, behind) if behind else 0
        if not groups or count % groups or first + count * wide != height:
            raise ValueError(f"{count} heads ({heads}) in {groups} groups ({of}) make {first + count * wide} rows")
        each = count // groups
        starts = (first + (group * each + one) * wide for one in range(each) for group in range(groups))
        before: tuple[Span, ...] = ((0, first, 1),) if first else ()
        return before + tuple((start, start + wide, 1) for start in starts)

    return order
