"""An adapter trained on two nodes, as docs/deploy.md says, is that of one process."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from tests.conftest import REPOSITORY, free_port
from tests.dem.toy_rows import JOB_CONFIG, pack_toy_domain, toy_job
from tests.language_model.toy import save_toy_model
from yunmin_assets.dem import run_adapter_job

SECONDS_TO_WAIT = 200.0
SAME_UP_TO_ROUNDING = 1e-5


def test_two_launchers_that_meet_train_the_adapter_of_one_process(tmp_path: Path) -> None:
    base = save_toy_model(tmp_path / "base", "mamba2")
    for domain in ("law", "food"):
        pack_toy_domain(base, domain, tmp_path / domain)
    alone = toy_job(base, tmp_path, "law", config=JOB_CONFIG).model_copy(update={"device": "cpu"})
    result = run_adapter_job(alone)
    home = tmp_path / "together"
    job = alone.model_copy(update={"out": home / "adapter", "checkpoints": home / "checkpoints"})
    description = tmp_path / "job.json"
    description.write_text(job.model_dump_json())

    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command += ["-m", "yunmin_assets.dem.adapter_job", str(description)]
    launchers = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        said = [launcher.communicate(timeout=SECONDS_TO_WAIT)[0] for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.terminate()
    assert [launcher.returncode for launcher in launchers] == [0, 0]
    assert sorted(text.count('{"report"') > 0 for text in said) == [False, True], (
        "one of them speaks for both"
    )
    weights, expected = (load_file(folder / "adapter_model.safetensors") for folder in (job.out, alone.out))
    assert weights.keys() == expected.keys() and len(result.losses) == JOB_CONFIG.training.steps
    for name, tensor in expected.items():
        assert (weights[name] - tensor).abs().max() <= SAME_UP_TO_ROUNDING, name
