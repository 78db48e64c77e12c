"""When the assets over all domains are made anew: once, when every domain's chain has come to rest.

Dagster's own `eager()` would merge again after each single adapter. Here all of `FAN_INS` share one condition, so
that they are requested on one tick and run together. The chains themselves are started by `raw_data_sensor` and carry
no condition.
"""

from collections.abc import Sequence

from dagster import (
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    AutomationCondition,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
)

from yunmin_assets.automation.jobs import CHAIN, FAN_INS

END_OF_CHAIN = "diff_vector"


def _all_at_rest() -> AutomationCondition:
    """True when a difference vector has changed and no domain is unfinished, failed or refused by a check.

    A chain that ran again and came to the same bytes changes no data version and therefore nothing here. A vector
    that changes after the request, while the merge it missed is waiting or running, requests another one: Dagster's
    `since_last_handled()` would forget it. The price is that a merge by hand is followed by a run that finds
    nothing to do.
    """
    condition = AutomationCondition
    has_changed = condition.asset_matches(END_OF_CHAIN, condition.data_version_changed())
    handled = (condition.newly_requested() & ~has_changed) | condition.initial_evaluation()
    is_unfinished = condition.asset_matches(
        END_OF_CHAIN, condition.missing() | condition.in_progress() | condition.execution_failed()
    )
    at_rest = has_changed.since(handled) & ~is_unfinished & ~condition.in_progress()
    for name in CHAIN:
        check_failed = condition.any_checks_match(condition.check_failed(), blocking_only=True)
        at_rest &= ~condition.asset_matches(name, check_failed)
    return at_rest.with_label("every domain at rest and one of them changed")


def with_conditions(assets: Sequence[AssetsDefinition]) -> list[AssetsDefinition]:
    """The same assets, those over all domains at the end of the graph with their automation condition."""
    condition = _all_at_rest()

    def conditioned(spec: AssetSpec) -> AssetSpec:
        is_fan_in = spec.key.to_user_string() in FAN_INS
        return spec.replace_attributes(automation_condition=condition) if is_fan_in else spec

    return [definition.map_asset_specs(conditioned) for definition in assets]


automation_sensor = AutomationConditionSensorDefinition(
    "automation_conditions",
    target=AssetSelection.assets(*FAN_INS),
    default_status=DefaultSensorStatus.STOPPED,
    description="Merges and evaluates once all domains are at rest and one changed. Switch it on in production.",
)
