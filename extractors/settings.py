"""The root of every configuration model of the project."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
