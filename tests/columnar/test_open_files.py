import os
import subprocess
import sys
from pathlib import Path

import pytest

from yunmin_assets.columnar.open_files import OpenFile, opener


def test_a_file_is_read_by_position(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    assert OpenFile(tmp_path / "file").read(3, 4) == b"3456"
    assert OpenFile(tmp_path / "file").read(8, 4) == b"89"


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_only_so_many_stay_open_and_none_is_closed_while_somebody_has_it(tmp_path):
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.write_text(path.name)
    opened = opener(most_open=2)
    held = opened(paths[0])
    descriptors = [opened(path).descriptor for path in paths[1:]]
    assert held.read(0, 1) == b"0"
    assert opened(paths[4]).descriptor == descriptors[3]  # still open, not opened again
    before = held.descriptor
    del held
    assert not is_open(before) or before in descriptors


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        opener()(tmp_path / "absent")


MANY_SHARDS = """
import resource, sys
import numpy as np
from yunmin_assets.columnar import PackConfig, PackedDataset, pack_documents

config = PackConfig(seq_len=16, vocab_size=500, page_bytes=150, rows_per_row_group=16, shard_bytes=800)
documents = (np.full(40, 7) for _ in range(2500))
manifest = pack_documents(documents, sys.argv[1], config)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
rows = sum(len(batch["input_ids"]) for batch in PackedDataset(sys.argv[1]))
assert rows == manifest.rows and len(manifest.files) > 128
"""


def test_a_data_set_may_have_more_shards_than_a_process_may_open_files(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MANY_SHARDS, str(tmp_path / "data")]
    subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parents[2])
