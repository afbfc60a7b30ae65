"""``tristream config``: every key of the run file with its default and its meaning, read from the models themselves."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from tristream.config.base import Section
from tristream.config.run_file import RunFile


def describe_run_file() -> Iterator[str]:
    """Lines that name every table and key, nested tables after the keys of the table they are in."""
    for name, field in RunFile.model_fields.items():
        header = f"[[{name}]]" if _is_list(field) else f"[{name}]"
        for section in _sections(field.annotation):
            yield from _describe_table(header, name, section)


def _describe_table(header: str, path: str, section: type[Section]) -> Iterator[str]:
    yield header
    nested = {name: found for name, field in section.model_fields.items() if (found := _sections(field.annotation))}
    for name, field in section.model_fields.items():
        if name not in nested:
            default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
            yield f"  {name}{default}"
            yield f"      {field.description}"
    for name, sections in nested.items():
        for kind in sections:  # one a type, where the table is a choice of types
            yield from _describe_table(f"[{path}.{name}]", f"{path}.{name}", kind)


def _sections(annotation: Any) -> tuple[type[Section], ...]:  # noqa: ANN401 - a type, or a union of types
    """The sections in a type: itself, the members of a union, the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (annotation,)
    return tuple(section for argument in get_args(annotation) for section in _sections(argument))


def _is_list(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is tuple
