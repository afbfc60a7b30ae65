"""Sections of which there are several, told apart by their ``type``."""

from collections.abc import Mapping
from typing import Any

from pydantic import Discriminator

from tristream.config.base import Section

UNKNOWN_TYPE = "unknown_type"
TAG_PREFIX = "type="
"""Begins what pydantic puts between the keys of an error to say which section it tried."""


def tag(name: str) -> str:
    """How a section of this type is tagged in its union."""
    return f"{TAG_PREFIX}{name}"


def by_type(*names: str) -> Discriminator:
    """Takes the section that ``type`` names, and the first one where there is none."""

    def choose(value: Any) -> str:  # noqa: ANN401 - pydantic gives what it was given
        if isinstance(value, Section):
            return tag(str(getattr(value, "type", names[0])))
        return tag(str(value.get("type", names[0]) if isinstance(value, Mapping) else names[0]))

    known = ", ".join(f"'{name}'" for name in names[:-1])
    message = f"Input should be {known} or '{names[-1]}'"
    return Discriminator(choose, custom_error_type=UNKNOWN_TYPE, custom_error_message=message)
