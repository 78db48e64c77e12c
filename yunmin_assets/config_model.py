"""The base of every stage's configuration object."""

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """An immutable, strictly checked group of options.

    An unknown or ill-typed key raises ``pydantic.ValidationError`` naming it. Equal options give an
    equal ``model_dump_json()``, so a configuration takes part in the fingerprint that decides
    whether an asset has to be computed again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
