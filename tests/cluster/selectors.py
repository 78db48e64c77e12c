"""Label and field selectors of list calls."""

from collections.abc import Iterable, Mapping
from typing import Any

Object = dict[str, Any]


def select(objects: Iterable[Object], query: Mapping[str, str]) -> list[Object]:
    """The objects that match `labelSelector` and `fieldSelector`; both are lists of `key=value`.

    Raises:
        ValueError: a selector is none of these.
    """
    labels = _equalities(query.get("labelSelector", ""))
    fields = _equalities(query.get("fieldSelector", ""))
    return [
        item
        for item in objects
        if all((item["metadata"].get("labels") or {}).get(key) == value for key, value in labels.items())
        and all(_field(item, key) == value for key, value in fields.items())
    ]


def _equalities(selector: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, selector.split(",")):
        key, is_equality, value = part.replace("==", "=").partition("=")
        if not is_equality or key.endswith("!"):
            raise ValueError(f"unable to parse requirement: {part!r}")
        pairs[key] = value
    return pairs


def _field(item: Any, path: str) -> Any:
    for key in path.split("."):
        item = item.get(key, {})
    return item
