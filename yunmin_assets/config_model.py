"""The base of every stage's configuration object."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

S3Uri = Annotated[str, Field(pattern="^s3://[^/]+/.")]

Location = S3Uri | Path
"""A file or folder on this machine, or the `s3://` URI of one; a path would make one slash of two."""


class ConfigModel(BaseModel):
    """An immutable, strictly checked group of options.

    An unknown or ill-typed key raises ``pydantic.ValidationError`` naming it. Equal options give an
    equal ``model_dump_json()``, so a configuration takes part in the fingerprint that decides
    whether an asset has to be computed again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
