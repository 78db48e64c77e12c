"""`python -m yunmin_assets.corpus.sample <folder>` writes the synthetic sample corpus."""

import argparse
from pathlib import Path

from yunmin_assets.corpus.sample.writer import describe, write_sample_corpus


def main() -> None:
    """Read the command line, write the corpus and say what was written."""
    parser = argparse.ArgumentParser(prog="python -m yunmin_assets.corpus.sample", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--documents-per-domain", type=int, default=2000)
    options = parser.parse_args()
    summary = write_sample_corpus(
        options.folder, seed=options.seed, documents_per_domain=options.documents_per_domain
    )
    for line in describe(summary):
        print(line)


if __name__ == "__main__":
    main()
