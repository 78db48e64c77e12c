"""A job trains the same adapter however often it is killed, and on one or two processes."""

import random
import signal
import time

import psutil
import pytest
from safetensors.torch import load_file

from tests.dem import disasters
from tests.dem.disasters import SERVER, in_another_process
from tests.dem.toy_rows import JOB_CONFIG, pack_toy_domain, toy_job
from tests.language_model.toy import TOY_LENGTH, folder_bytes, save_toy_model
from yunmin_assets.columnar import MixedDataset, PackManifest
from yunmin_assets.dem import AdapterJob, adapter_job, run_adapter_job
from yunmin_assets.dem.adapter_job import largest_process_count, train_job
from yunmin_assets.language_model.architecture import default_device, use_device
from yunmin_assets.language_model.checkpoint import FILE_NAME, read_state
from yunmin_assets.language_model.ranks import ALONE

STEPS = JOB_CONFIG.training.steps
SECONDS_TO_WAIT = 120.0
SAME_UP_TO_ROUNDING = 1e-5


@pytest.fixture(scope="module", params=["mamba2 lora", "mamba lora", "mamba2 full"])
def undisturbed(request, tmp_path_factory):
    """A finished job beside its rows."""
    architecture, method = request.param.split()
    return finished_job(architecture, tmp_path_factory.mktemp(method), method)


@pytest.fixture(scope="module")
def mamba2_job(tmp_path_factory):
    return finished_job("mamba2", tmp_path_factory.mktemp("alone"))


def finished_job(architecture, home, method="lora"):
    base = save_toy_model(home / "base", architecture)
    for domain in ("law", "food"):
        pack_toy_domain(base, domain, home / domain)
    job = toy_job(base, home, "law", config=JOB_CONFIG.model_copy(update={"method": method}))
    run_adapter_job(job)
    return job


def again(job, home, **update):
    """The same job with folders of its own."""
    return job.model_copy(update={"out": home / "adapter", "checkpoints": home / "checkpoints", **update})


def steps_done(job):
    state = read_state(job.checkpoints)
    return len(state["result"]["losses"]) if state else 0


def test_killed_at_five_random_steps_and_twice_at_a_checkpoint_the_result_is_the_same_bytes(
    undisturbed, tmp_path
):
    job = again(undisturbed, tmp_path)
    for step in sorted(random.Random(str(undisturbed.base)).sample(range(STEPS), 5)):
        assert in_another_process(disasters.killed_before, job, step) == -signal.SIGKILL
        assert steps_done(job) == step // 2 * 2
    before = steps_done(job)
    assert before < STEPS
    assert in_another_process(disasters.killed_while_writing, job, before) == -signal.SIGXFSZ
    assert in_another_process(disasters.killed_before_renaming, job, before) == -signal.SIGKILL
    assert (job.checkpoints / "part" / FILE_NAME).exists()
    assert steps_done(job) == before
    result = run_adapter_job(job)
    assert result.resumed_at == before
    assert not any((job.checkpoints / "part").iterdir()), (
        "nothing is left of the checkpoints that were cut off"
    )
    assert folder_bytes(job.out) == folder_bytes(undisturbed.out)


def test_on_a_full_disk_the_previous_checkpoint_stays_valid_and_the_error_says_what_to_do(
    mamba2_job, tmp_path
):
    job = again(mamba2_job, tmp_path)
    receiver, sender = SERVER.Pipe(duplex=False)
    assert in_another_process(disasters.on_a_full_disk, job, 5, sender) == 0
    message = receiver.recv()
    assert "File too large" in message and "make room" in message and str(job.checkpoints) in message
    assert steps_done(job) == 4
    assert [path.name for path in job.checkpoints.iterdir()] == [FILE_NAME]
    assert not job.out.exists()
    run_adapter_job(job)
    assert folder_bytes(job.out) == folder_bytes(mamba2_job.out)


def test_two_processes_killed_with_their_parent_leave_nobody_behind_and_end_where_one_ends(
    mamba2_job, tmp_path
):
    steps = 40  # enough of them that the kill comes in time on a busy machine
    training = JOB_CONFIG.training.model_copy(update={"steps": steps, "learning_rate": 5e-3})
    config = JOB_CONFIG.model_copy(update={"training": training})
    rows = rows_that_leave_one_over(mamba2_job.base, tmp_path / "rows")
    alone_job = again(mamba2_job, tmp_path / "alone", config=config, train={"law": rows})
    alone = run_adapter_job(alone_job)
    job = again(mamba2_job, tmp_path / "together", config=config, train={"law": rows})
    parent = SERVER.Process(target=disasters.by_two_processes, args=(job,))
    parent.start()
    wait_until(lambda: steps_done(job) >= 2)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 3, "the launcher and two ranks"
    parent.kill()
    parent.join()
    psutil.wait_procs(children, SECONDS_TO_WAIT)
    assert not any(child.is_running() for child in children)
    assert 2 <= steps_done(job) < steps and not job.out.exists()

    lines, reports = [], []
    result = run_adapter_job(job, processes=2, log=lines.append, report=reports.append)
    assert result.resumed_at >= 2
    assert result.tokens == alone.tokens < steps * 4 * TOY_LENGTH, "the last batch of an epoch is short"
    assert result.losses == pytest.approx(alone.losses, abs=SAME_UP_TO_ROUNDING)
    assert result.validation_losses == pytest.approx(alone.validation_losses, abs=SAME_UP_TO_ROUNDING)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (job.out, alone_job.out))
    assert max((ours[name] - theirs[name]).abs().max() for name in theirs) < SAME_UP_TO_ROUNDING
    assert reports[-1].losses == result.losses
    assert any(f"of {steps - result.resumed_at} steps" in line for line in lines)


def rows_that_leave_one_over(base, home):
    """Rows in few batches of 4 and one batch of a single row, in which one of two processes has no share."""
    for sentences in range(10, 40):
        rows = pack_toy_domain(base, "law", home / str(sentences), sentences) / "train"
        if PackManifest.read(rows).rows % 4 == 1:
            return rows
    raise AssertionError("no number of sentences leaves one row over")


def wait_until(is_so):
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_several_domains_are_mixed_for_the_joint_adapter(mamba2_job, tmp_path):
    home = mamba2_job.base.parent
    tokens = 2 * STEPS * 4 * TOY_LENGTH
    config = JOB_CONFIG.over_domains(2, tokens, TOY_LENGTH)
    job = again(toy_job(mamba2_job.base, home, "law", "food", config=config), tmp_path, tokens=tokens)
    result = run_adapter_job(job)
    assert result.tokens == tokens
    assert result.validation_steps == [6, 12, 18, 24]
    state = read_state(job.checkpoints)["loader"]
    law, food = (toy_job(mamba2_job.base, home, name).train[name] for name in ("law", "food"))
    rows = {"law": float(PackManifest.read(law).rows), "food": float(PackManifest.read(food).rows)}
    mixed = MixedDataset({"law": law, "food": food}, rows, batch_size=4, seed=JOB_CONFIG.training.seed)
    mixed.load_state_dict(state)  # refuses the state of anything else than these rows in this proportion


def test_fewer_rows_than_a_batch_are_refused_with_the_cure(mamba2_job, tmp_path):
    pack_toy_domain(mamba2_job.base, "law", tmp_path / "law", sentences=1)
    rows = PackManifest.read(tmp_path / "law" / "train").rows
    with pytest.raises(
        ValueError, match=rf"law: {rows} training rows of .* one batch of 4.*deliver more text"
    ):
        run_adapter_job(again(mamba2_job, tmp_path, train={"law": tmp_path / "law" / "train"}))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_of_another_tokenizer_are_refused(split, mamba2_job, tmp_path):
    other = save_toy_model(tmp_path / "other", "mamba2")
    path = other / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    pack_toy_domain(other, "law", tmp_path / "law")
    with pytest.raises(ValueError, match=r"rows of 'law' in .* were made with another tokenizer"):
        run_adapter_job(again(mamba2_job, tmp_path, **{split: {"law": tmp_path / "law" / split}}))


def test_one_process_trains_on_the_device_of_the_job(mamba2_job, tmp_path):
    use_device("meta")  # on which nothing can be trained
    try:
        run_adapter_job(again(mamba2_job, tmp_path))
        assert default_device().type == "cpu"
    finally:
        use_device(None)


def test_the_result_of_several_processes_is_that_of_the_checkpoint_and_not_what_they_said(
    mamba2_job, tmp_path, monkeypatch
):
    def silent_processes(_module, description, _count, *, log, report):
        job = AdapterJob.model_validate_json(description.read_text())
        train_job(job, ALONE, log=log, report=lambda _: None)
        report({"losses": []})  # and nothing more was heard

    monkeypatch.setattr(adapter_job, "run_in_processes", silent_processes)
    result = run_adapter_job(again(mamba2_job, tmp_path), processes=2)
    assert len(result.losses) == STEPS and result.best_step in result.validation_steps
    monkeypatch.setattr(adapter_job, "run_in_processes", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match=r"ended without an error, but left no checkpoint in .*nothing"):
        run_adapter_job(again(mamba2_job, tmp_path / "nothing"), processes=2)


@pytest.mark.parametrize(
    ("gpus", "batch_size", "processes"), [(0, 8, 1), (1, 8, 1), (3, 8, 2), (8, 8, 8), (8, 12, 4), (4, 9, 1)]
)
def test_as_many_processes_as_share_a_batch_evenly(gpus, batch_size, processes):
    assert largest_process_count(gpus, batch_size) == processes
