"""The README's parts that are made from the code: `python -m tests.readme` writes them anew."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from service import errors
from service.artifact.store import ModelStore
from service.errors import VultusError
from service.settings import CHECKOUT, Settings

README = CHECKOUT / "README.md"


def settings_table() -> list[str]:
    """A row a setting."""
    return [
        f"| `VULTUS_{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
        if field.default is not PydanticUndefined
    ]


def _default(value: object) -> str:
    if isinstance(value, Path):
        return f"`{value.relative_to(CHECKOUT)}/`"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value}`" if value not in {"", None} else ""


def errors_table() -> list[str]:
    """A row a code, by status."""
    rows = {(kind.status, kind.code, kind.title) for kind in _family(VultusError) if kind.__module__ == errors.__name__}
    return [f"| {status} | `{code}` | {title} |" for status, code, title in sorted(rows)]


def _family(kind: type[VultusError]) -> list[type[VultusError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _family(child))]


def models_table() -> list[str]:
    """A row a model of the checkout that is fetched, so that what a developer imported stays out."""
    store = ModelStore(CHECKOUT / "models")
    manifests = [manifest for manifest in map(store.manifest, store.names()) if manifest.source is not None]
    return [
        f"| `{each.name}` {each.version} | {each.task} | {each.licence.spdx} | <{each.licence.source}> |"
        for each in manifests
    ]


TABLES = {
    "| variable | default | meaning |": settings_table,
    "| status | code | meaning |": errors_table,
    "| model | task | licence | source |": models_table,
}


def table_under(heading: str) -> list[str]:
    """The rows that the README has under a table's heading."""
    lines = README.read_text().splitlines()
    start = lines.index(heading) + 2
    end = next(place for place, line in enumerate(lines[start:], start) if not line)
    return lines[start:end]


def write() -> None:
    """Write all tables anew."""
    for heading, rows in TABLES.items():
        old = "\n".join([heading, "|---" * (heading.count("|") - 1) + "|", *table_under(heading)])
        new = "\n".join([heading, "|---" * (heading.count("|") - 1) + "|", *rows()])
        README.write_text(README.read_text().replace(old, new))


if __name__ == "__main__":
    write()
