"""A snapshot over all domains counts only when it was made from exactly the snapshots that are current."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from resources.lake import Lake
from resources.snapshot import LakeError, Snapshot
from resources.upstream import find_made_from, require_made_from

ADAPTERS = {"lora_adapter[law]": "1", "lora_adapter[news]": "2"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(uri=str(tmp_path / "lake"))


def publish_joint(lake: Lake, inputs: Mapping[str, str]) -> Snapshot:
    with lake.stage("joint_adapter") as staging:
        (staging.folder / "adapter").write_text("weights")
        return lake.commit(staging, asset="joint_adapter", domain=None, fingerprint="f", inputs=inputs)


def test_a_control_is_found_when_it_was_made_from_the_same_domains(lake: Lake) -> None:
    joint = publish_joint(lake, {**ADAPTERS, "base_model": "9"})
    found = find_made_from(lake, "joint_adapter", ADAPTERS)
    assert found is not None
    assert found.folder == joint.folder


@pytest.mark.parametrize(
    "made_from",
    [
        {"lora_adapter[law]": "1"},
        {**ADAPTERS, "lora_adapter[news]": "an older one"},
        {**ADAPTERS, "lora_adapter[web]": "3"},
    ],
    ids=["a domain is missing", "a domain has changed", "a domain was dropped since"],
)
def test_a_control_of_other_domains_is_none(lake: Lake, made_from: Mapping[str, str]) -> None:
    publish_joint(lake, made_from)
    assert find_made_from(lake, "joint_adapter", ADAPTERS) is None


def test_without_a_control_there_is_none(lake: Lake) -> None:
    assert find_made_from(lake, "joint_adapter", ADAPTERS) is None


def test_a_snapshot_of_an_older_input_is_refused_with_the_cure(lake: Lake) -> None:
    joint = publish_joint(lake, ADAPTERS)
    require_made_from(joint, "lora_adapter[law]", "1")
    with pytest.raises(
        LakeError, match=r"made from an older lora_adapter\[law\]: materialize joint_adapter again"
    ):
        require_made_from(joint, "lora_adapter[law]", "newer")
