"""`make demo`: materialize the whole graph in one process, with progress on the terminal.

    python -m yunmin_assets.automation.local_run [--raw FOLDER|s3://…] [--domains law,tech] [--home FOLDER]

Runs are recorded like any other, so the UI shows them; a second run finds nothing to do. A domain that
fails is reported and left out, the others go on, and the exit status is 1.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yunmin_assets.automation.workplace import (
    Workplace,
    ensure_sample_corpus,
    own_workplace,
    sample_workplace,
)

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions

    from yunmin_assets.automation.plan import Phase

TERMINAL: dict[str, Any] = {"loggers": {"terminal": {"config": {}}}}


def main(arguments: list[str] | None = None) -> int:
    """Run the graph and print its summary; the exit status."""
    options = _parse(arguments)
    workplace = own_workplace(options.raw, options.home) if options.raw else sample_workplace(options.home)
    if workplace.is_sample:
        ensure_sample_corpus(workplace)
    workplace.activate()
    started = time.monotonic()
    failed = run_graph([name for name in options.domains.split(",") if name])
    if failed:
        print(
            f"\nfailed: {', '.join(failed)} (see the errors above; mend the cause and run the same command again)"
        )
    _print_report(workplace, time.monotonic() - started)
    return 1 if failed else 0


def run_graph(domains: list[str]) -> list[str]:
    """Materialize every asset for `domains` (all that are delivered when empty).

    Returns:
        The domains that failed, and "assets over all domains" when one of those did.

    Raises:
        SystemExit: a domain was asked for that is not delivered.
    """
    from dagster import DagsterInstance

    from definitions import defs, settings
    from yunmin_assets.automation.plan import plan_phases
    from yunmin_assets.corpus.raw import list_domains

    delivered = list(list_domains(settings.raw_root()))
    if unknown := sorted(set(domains) - set(delivered)):
        there = ", ".join(delivered)
        raise SystemExit(
            f"no raw objects for {', '.join(unknown)} in {settings.raw_root()}: there are {there}"
        )
    left, failed = domains or delivered, list[str]()
    with warnings.catch_warnings(), DagsterInstance.get() as instance:
        warnings.simplefilter("ignore")  # Dagster's own notes about in-process execution
        _register(instance, left)
        phases = plan_phases(defs.resolve_asset_graph())
        for number, phase in enumerate(phases, start=1):
            names = ", ".join(key.to_user_string() for key in phase.assets)
            print(f"\n[{number}/{len(phases)}] {names}", flush=True)
            if phase.is_partitioned:
                failed += [domain for domain in left if not _run(defs, instance, phase, domain)]
                left = [domain for domain in left if domain not in failed]
            elif not _run(defs, instance, phase, None):
                return [*failed, "assets over all domains"]
    return failed


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Materialize the whole graph on this machine.")
    parser.add_argument(
        "--raw", default="", help="folder or s3:// prefix with your own text (default: the sample corpus)"
    )
    parser.add_argument(
        "--domains", default="", help="comma-separated domains (default: all that are delivered)"
    )
    parser.add_argument(
        "--home", type=Path, help="folder of the lake and the run history (default: data/<name>)"
    )
    return parser.parse_args(arguments)


def _register(instance: "DagsterInstance", domains: list[str]) -> None:
    """Make `domains` the partitions of this run; the data of others stays in the lake."""
    for name in instance.get_dynamic_partitions("domain"):
        if name not in domains:
            instance.delete_dynamic_partition("domain", name)
    instance.add_dynamic_partitions("domain", domains)


def _run(defs: "Definitions", instance: "DagsterInstance", phase: "Phase", domain: str | None) -> bool:
    result = defs.get_job_def("whole_pipeline").execute_in_process(
        run_config=TERMINAL,
        instance=instance,
        asset_selection=list(phase.assets),
        partition_key=domain,
        raise_on_error=False,
    )
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            cause = error.cause if error and error.cause else error
            print(
                f"  ✗ {event.step_key}{f'[{domain}]' if domain else ''}: {cause.message.strip() if cause else 'failed'}"
            )
    return result.success


def _print_report(workplace: Workplace, seconds: float) -> None:
    from resources.lake import Lake
    from yunmin_assets.automation.closing_table import closing_table

    report = Lake(uri=str(workplace.lake)).find("eval_report")
    if report is None:
        print("\nno evaluation report yet")
        return
    print("\n" + closing_table((report.local / "report.json").read_bytes()))
    print(f"\nreport   {report.local / 'report.html'}")
    print(f"lake     {workplace.lake}")
    print(f"done in  {seconds:,.0f} s")


if __name__ == "__main__":
    sys.exit(main())
