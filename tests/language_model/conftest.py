"""What the tests of language models share."""

import pytest

from tests.language_model.toy import one_thread


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield
