"""`make dev`: the Dagster UI on the sample corpus, showing what `make demo` did."""

import os
import sys
from pathlib import Path

from resources.settings import REPOSITORY
from yunmin_assets.automation.workplace import (
    ensure_sample_corpus,
    only_run_in,
    sample_workplace,
)


def main() -> None:
    """Write the sample corpus if it is absent and become `dagster dev`."""
    workplace = sample_workplace()
    with only_run_in(workplace.home):
        ensure_sample_corpus(workplace)
    workplace.activate()
    os.chdir(REPOSITORY)
    dagster = Path(sys.executable).with_name("dagster")
    os.execv(dagster, [str(dagster), "dev"])


if __name__ == "__main__":
    main()
