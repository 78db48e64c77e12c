"""An asset computes only what changed, and a failed blocking check never becomes current."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    Backoff,
    DagsterInstance,
    ExecuteInProcessResult,
    materialize,
)

from resources.lake import Lake
from resources.publishing import (
    AT_HAND,
    IN_PODS,
    Check,
    Events,
    Markdown,
    Outcome,
    Step,
    asset,
    check_specs,
    publish,
)
from resources.snapshot import LakeError
from yunmin_assets.files import MissingInputError

STORED: dict[str, Any] = {"metadata": {}, "checks": []}
"""The least that `publish` stores in a manifest."""


class Counter:
    """A one-asset graph that counts how often it computes."""

    def __init__(self, home: Path, instance: DagsterInstance) -> None:
        self.lake, self.instance, self.computed = Lake(uri=str(home / "lake")), instance, 0

    def definition(self, *, text: str, version: str, is_good: bool, is_pleasant: bool) -> AssetsDefinition:
        def compute(folder: Path) -> Outcome:
            self.computed += 1
            (folder / "text.txt").write_text(text)
            checks = (
                Check("good", is_good, "as it should be" if is_good else "it is bad"),
                Check("pleasant", is_pleasant, "nice", blocking=False, values={"degree": 3}),
            )
            return Outcome({"length": len(text), "shown": Markdown(f"**{text}**")}, checks, tokens=7)

        specs = check_specs(
            "words", {"good": "is good"}, warning={"pleasant": "is pleasant"}, partitioned=False
        )

        @asset(code_version=version, check_specs=specs)
        def words(context: AssetExecutionContext, lake: Lake) -> Events:
            yield from publish(Step(context, lake, {"input": text}, {"option": 1}, bytes_in=5), compute)

        return words

    def run(
        self, text: str = "말", *, version: str = "1", is_good: bool = True, is_pleasant: bool = True
    ) -> ExecuteInProcessResult:
        definition = self.definition(text=text, version=version, is_good=is_good, is_pleasant=is_pleasant)
        return materialize(
            [definition], resources={"lake": self.lake}, instance=self.instance, raise_on_error=False
        )


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    with DagsterInstance.ephemeral() as instance:
        yield Counter(tmp_path, instance)


def metadata(result: ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {key: value.value for key, value in event.materialization.metadata.items()}


def data_version(result: ExecuteInProcessResult) -> str:
    (event,) = result.get_asset_materialization_events()
    return str((event.materialization.tags or {})["dagster/data_version"])


def test_unchanged_input_publishes_nothing_and_shows_the_same_page(counter: Counter) -> None:
    first, second = counter.run(), counter.run()
    assert counter.computed == 1
    assert counter.lake.versions("words") == [counter.lake.current("words").manifest.version]
    assert (metadata(first).pop("published"), metadata(second).pop("published")) == (True, False)
    assert metadata(first) | {"published": None} == metadata(second) | {"published": None}
    assert data_version(first) == data_version(second) == counter.lake.current("words").content_hash
    assert [check.passed for check in second.get_asset_check_evaluations()] == [True, True]


@pytest.mark.parametrize("change", [{"text": "다른 말"}, {"version": "2"}])
def test_another_input_or_code_version_computes_again(counter: Counter, change: dict[str, str]) -> None:
    counter.run()
    counter.run(**change)  # type: ignore[arg-type]
    assert counter.computed == 2


def test_what_the_asset_found_is_stored_with_its_cost(counter: Counter) -> None:
    result = counter.run()
    manifest = counter.lake.current("words").manifest
    assert metadata(result)["length"] == 1
    assert metadata(result)["shown"] == "**말**"
    assert (manifest.cost.tokens, manifest.cost.bytes_in, manifest.cost.bytes_out) == (
        7,
        5,
        len("말".encode()),
    )
    assert manifest.cost.peak_memory_bytes > 10_000_000
    assert manifest.inputs == {"input": "말"}


def test_a_failed_blocking_check_leaves_the_old_snapshot_current_and_is_seen(counter: Counter) -> None:
    counter.run()
    old = counter.lake.current("words").manifest
    result = counter.run("다른 말", is_good=False)
    assert not result.success
    assert counter.lake.current("words").manifest == old
    evaluations = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert evaluations == {"good": False, "pleasant": True}
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "good: it is bad" in str(failure.step_failure_data.user_failure_data.description)


def test_a_failed_warning_publishes_all_the_same(counter: Counter) -> None:
    result = counter.run(is_pleasant=False)
    assert result.success
    assert counter.lake.current("words").manifest.content_hash == data_version(result)


def test_a_workspace_is_the_same_for_the_same_work_and_gone_once_it_is_published(counter: Counter) -> None:
    seen: list[Path] = []

    def step_in(context: AssetExecutionContext, work: Callable[[Step], None]) -> Events:
        step = Step(context, counter.lake, {"input": "x"})

        def compute(folder: Path) -> Outcome:
            seen.append(step.workspace())
            work(step)
            (folder / "done").write_text("x")
            return Outcome({})

        yield from publish(step, compute)

    def die(step: Step) -> None:
        (step.workspace() / "checkpoint").write_text("half")
        raise RuntimeError("killed")

    @asset(name="words", code_version="1")
    def dying(context: AssetExecutionContext) -> Events:
        yield from step_in(context, die)

    @asset(name="words", code_version="1")
    def surviving(context: AssetExecutionContext) -> Events:
        yield from step_in(
            context, lambda step: None if (step.workspace() / "checkpoint").exists() else die(step)
        )

    assert not materialize([dying], instance=counter.instance, raise_on_error=False).success
    assert materialize([surviving], instance=counter.instance).success
    assert seen[0] == seen[1]
    assert not seen[0].exists()


def test_publishing_leaves_the_checkpoints_of_another_computation_of_the_asset(counter: Counter) -> None:
    with counter.lake.workspace("words", None, "another") as folder:
        (folder / "checkpoint").write_text("step 1000")
        assert counter.run().success
        assert (folder / "checkpoint").read_text() == "step 1000"


@pytest.mark.parametrize(("pool", "gpus"), [("gpu", 2), (None, 0)])
def test_a_step_of_the_gpu_pool_pays_for_every_gpu_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str | None, gpus: int
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)

    def compute(folder: Path) -> Outcome:
        (folder / "text.txt").write_text("말")
        time.sleep(0.2)
        return Outcome({})

    @asset(pool=pool)
    def words(context: AssetExecutionContext, lake: Lake) -> Events:
        yield from publish(Step(context, lake, {}), compute)

    lake = Lake(uri=str(tmp_path / "lake"))
    assert materialize([words], resources={"lake": lake}).success
    cost = lake.current("words").manifest.cost
    assert cost.gpu_seconds == pytest.approx(gpus * cost.wall_seconds, abs=0.01)
    assert cost.wall_seconds >= 0.2


class Flaky:
    """An asset that does something else on each attempt."""

    def __init__(self, home: Path, instance: DagsterInstance) -> None:
        self.lake, self.instance, self.attempts = Lake(uri=str(home / "lake")), instance, 0

    def run(self, *attempts: Callable[[Step], None], upstream: str = "") -> ExecuteInProcessResult:
        @asset(code_version="1")
        def words(context: AssetExecutionContext) -> Events:
            self.attempts += 1
            if upstream:
                self.lake.current(upstream)
            step = Step(context, self.lake, {})

            def compute(folder: Path) -> Outcome:
                attempts[self.attempts - 1](step)
                (folder / "text.txt").write_text("말")
                return Outcome({})

            yield from publish(step, compute)

        return materialize([words], instance=self.instance, raise_on_error=False)


@pytest.fixture
def flaky(counter: Counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    """Retried as in pods."""
    monkeypatch.setattr("resources.publishing.RETRIES", IN_PODS)
    return Flaky(tmp_path, counter.instance)


def succeed(step: Step) -> None:
    """Nothing stands in the way."""


def failing(error: Exception) -> Callable[[Step], None]:
    def fail(step: Step) -> None:
        raise error

    return fail


def message_of(result: ExecuteInProcessResult) -> str:
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    data = failure.step_failure_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


def test_what_fails_by_chance_is_tried_again_and_goes_on_from_its_checkpoint(flaky: Flaky) -> None:
    def begin(step: Step) -> None:
        (step.workspace() / "checkpoint").write_text("half")
        raise ConnectionResetError("the store went away")

    def go_on(step: Step) -> None:
        assert (step.workspace() / "checkpoint").read_text() == "half"

    assert flaky.run(begin, failing(RuntimeError("CUDA error")), go_on).success
    assert flaky.attempts == 3


def test_six_evictions_and_an_outage_of_half_an_hour_are_survived(flaky: Flaky) -> None:
    assert flaky.run(*[failing(OSError("the store is overloaded"))] * 6, succeed).success
    assert IN_PODS.backoff is Backoff.EXPONENTIAL
    pauses = [(2**attempt - 1) * float(IN_PODS.delay or 0) for attempt in range(1, IN_PODS.max_retries + 1)]
    assert sum(pauses) >= 30 * 60


def test_where_a_person_looks_on_an_error_is_shown_within_seconds(
    flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.publishing.RETRIES", AT_HAND)
    assert not flaky.run(*[failing(OSError("disk full"))] * 9).success
    assert flaky.attempts == 2
    assert AT_HAND.max_retries * float(AT_HAND.delay or 0) <= 1


def test_what_always_fails_is_given_up(flaky: Flaky) -> None:
    assert not flaky.run(*[failing(OSError("disk full"))] * 9).success
    assert flaky.attempts == 1 + IN_PODS.max_retries


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a text is null"),
        MissingInputError("base_model.path holds no config.json"),
        FloatingPointError("the loss is nan"),
        TypeError("a text is no string"),
        KeyError("text"),
        AttributeError("a"),
    ],
)
def test_bad_input_is_not_tried_again_and_named(flaky: Flaky, error: Exception) -> None:
    result = flaky.run(failing(error), succeed)
    assert flaky.attempts == 1
    assert message_of(result) == f"{type(error).__name__}: {error}"


def test_a_missing_upstream_is_not_waited_for(flaky: Flaky) -> None:
    result = flaky.run(succeed, succeed, upstream="sentences")
    assert flaky.attempts == 1
    assert "sentences has no snapshot" in message_of(result)


def test_a_failed_blocking_check_is_not_tried_again(counter: Counter) -> None:
    counter.run(is_good=False)
    assert counter.computed == 1


def test_who_lost_against_another_publisher_takes_over_what_that_one_published(flaky: Flaky) -> None:
    def let_another_publish(step: Step) -> None:
        with flaky.lake.stage("words") as staging:
            (staging.folder / "text.txt").write_text("말")
            flaky.lake.commit(
                staging, asset="words", domain=None, fingerprint=step.fingerprint, summary=STORED
            )

    result = flaky.run(let_another_publish)
    assert result.success
    assert flaky.attempts == 2
    assert metadata(result)["published"] is False
    assert len(flaky.lake.versions("words")) == 1


def test_an_asset_whose_snapshot_somebody_removed_can_be_materialized_again(counter: Counter) -> None:
    assert counter.run("말").success
    shutil.rmtree(counter.lake.current("words").local)
    with pytest.raises(LakeError, match=r"manifest.json is missing: materialize words again"):
        counter.lake.current("words")
    assert counter.run("말").success
    assert counter.lake.current("words").verify() == []
    assert counter.computed == 2
