"""What every section of the run file is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the run file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
