import subprocess
import sys

import pytest

import yunmin_assets.columnar as columnar


def test_reading_the_configuration_imports_no_heavy_library():
    code = (
        "import sys, yunmin_assets.columnar as columnar, yunmin_assets.columnar.config;"
        "columnar.PackConfig();"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    for name in columnar.__all__:
        assert getattr(columnar, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="pack_everything"):
        _ = columnar.pack_everything
