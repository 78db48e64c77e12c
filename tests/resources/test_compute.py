"""Where models run is checked when the resource is made."""

import pytest
from pydantic import ValidationError

from resources.compute import Compute


def test_a_negative_number_of_processes_is_refused() -> None:
    assert Compute().processes == 0
    with pytest.raises(ValidationError, match="processes"):
        Compute(processes=-3)
