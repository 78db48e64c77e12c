"""`make demo`: materialize the whole graph in one process, with progress on the terminal.

    python -m yunmin_assets.automation.local_run [--raw FOLDER|s3://…] [--domains law,tech] [--home FOLDER] [--job NAME]

`--job` materializes another named job, such as `study_pruning`, on what an earlier run has made.
Runs are recorded like any other, so the UI shows them; a second run finds nothing to do. A domain that
fails is reported and left out, the others go on, and the exit status is 1.
"""

import argparse
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yunmin_assets.automation.workplace import (
    Workplace,
    ensure_sample_corpus,
    only_run_in,
    own_workplace,
    sample_workplace,
)

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions

    from yunmin_assets.automation.plan import Phase

LOCAL_RUN = "yunmin/local_run"
WHOLE_PIPELINE = "whole_pipeline"
TERMINAL: dict[str, Any] = {"loggers": {"terminal": {"config": {}}}}


def main(arguments: list[str] | None = None) -> int:
    """Run the graph and print its summary; the exit status."""
    options = _parse(arguments)
    workplace = own_workplace(options.raw, options.home) if options.raw else sample_workplace(options.home)
    workplace.activate()
    started = time.monotonic()
    with only_run_in(workplace.home):
        if workplace.is_sample:
            ensure_sample_corpus(workplace)
        domains = [name.strip() for name in options.domains.split(",") if name.strip()]
        failed = run_graph(domains, options.job)
    if failed:
        print(
            f"\nfailed: {', '.join(failed)} (see the errors above; mend the cause and run the same command again)"
        )
    if options.job == WHOLE_PIPELINE:
        _print_report(workplace, time.monotonic() - started, is_whole=not failed)
    return 1 if failed else 0


def run_graph(domains: list[str], job: str = WHOLE_PIPELINE) -> list[str]:
    """Materialize every asset of a job for `domains` (all that are delivered when empty).

    Returns:
        The domains that failed, and "assets over all domains" when one of those did.

    Raises:
        SystemExit: a domain was asked for that is not delivered.
    """
    from dagster import DagsterInstance

    from definitions import defs, settings
    from yunmin_assets.corpus.listing import SUFFIXES, RawObjectError, list_domains

    root = settings.raw_root()
    try:
        delivered = list(list_domains(root))
    except RawObjectError as error:
        raise SystemExit(str(error)) from error
    if not delivered:
        raise SystemExit(f"nothing to read in {root}: name the files <domain>{' or <domain>'.join(SUFFIXES)}")
    if unknown := sorted(set(domains) - set(delivered)):
        raise SystemExit(
            f"no raw objects for {', '.join(unknown)} in {root}: there are {', '.join(delivered)}"
        )
    left, failed = _with_usable_names(domains or delivered)
    with warnings.catch_warnings(), DagsterInstance.get() as instance:
        warnings.simplefilter("ignore")  # Dagster's own notes about in-process execution
        _close_killed_runs(instance)
        _register(instance, left)
        phases = _phases(defs, job)
        for number, phase in enumerate(phases, start=1):
            names = ", ".join(key.to_user_string() for key in phase.assets)
            print(f"\n[{number}/{len(phases)}] {names}", flush=True)
            if phase.is_partitioned:
                failed += [domain for domain in left if not _run(defs, job, instance, phase, domain)]
                left = [domain for domain in left if domain not in failed]
            elif not _run(defs, job, instance, phase, None):
                return [*failed, "assets over all domains"]
    return failed


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    from yunmin_assets.automation.jobs import jobs

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
    parser.add_argument(
        "--job",
        default=WHOLE_PIPELINE,
        choices=[job.name for job in jobs],
        help="materialize another named job, on what an earlier run has made",
    )
    return parser.parse_args(arguments)


def _with_usable_names(domains: list[str]) -> tuple[list[str], list[str]]:
    """The domains whose names can be used, and those that cannot, which are reported."""
    from resources.lake import check_domain

    usable, refused = list[str](), list[str]()
    for domain in domains:
        try:
            usable.append(check_domain(domain))
        except ValueError as error:
            print(f"  ✗ {error}", flush=True)
            refused.append(domain)
    return usable, refused


def _close_killed_runs(instance: "DagsterInstance") -> None:
    """Fail the runs of a local run that was killed, and give back the pool slots they still hold.

    Nobody else does: a slot of the `gpu` pool that is never given back would keep the next run waiting.
    """
    from dagster import DagsterRunStatus, RunsFilter

    unfinished = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.NOT_STARTED]
    for run in instance.get_runs(RunsFilter(tags={LOCAL_RUN: "true"}, statuses=unfinished)):
        instance.report_run_failed(run, "the local run was killed")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _register(instance: "DagsterInstance", domains: list[str]) -> None:
    """Make `domains` the partitions of this run; the data of others stays in the lake."""
    for name in instance.get_dynamic_partitions("domain"):
        if name not in domains:
            instance.delete_dynamic_partition("domain", name)
    instance.add_dynamic_partitions("domain", domains)


def _phases(defs: "Definitions", job: str) -> list["Phase"]:
    from yunmin_assets.automation.plan import plan_phases

    selected = defs.resolve_job_def(job).asset_layer.selected_asset_keys
    phases = [
        replace(phase, assets=tuple(key for key in phase.assets if key in selected))
        for phase in plan_phases(defs.resolve_asset_graph())
    ]
    return [phase for phase in phases if phase.assets]


def _run(
    defs: "Definitions", job: str, instance: "DagsterInstance", phase: "Phase", domain: str | None
) -> bool:
    from yunmin_assets.automation.failure_alerts import reason_of

    result = defs.resolve_job_def(job).execute_in_process(
        run_config=TERMINAL,
        instance=instance,
        tags={LOCAL_RUN: "true"},
        asset_selection=list(phase.assets),
        partition_key=domain,
        raise_on_error=False,
    )
    for event in result.all_events:
        if event.is_step_failure:
            name = f"{event.step_key}[{domain}]" if domain else event.step_key
            print(f"  ✗ {name}: {reason_of(event.step_failure_data)}", flush=True)
    return result.success


def _print_report(workplace: Workplace, seconds: float, *, is_whole: bool) -> None:
    from resources.lake import Lake
    from yunmin_assets.automation.closing_table import closing_table

    report = Lake(uri=str(workplace.lake)).find("eval_report")
    if report is None:
        print("\nno evaluation report yet")
        return
    if not is_whole:
        print(f"the last report, made at {report.manifest.created}, may be older than this run:")
    print("\n" + closing_table((report.local / "report.json").read_bytes()))
    print(f"\nreport   {report.local / 'report.html'}")
    print(f"lake     {workplace.lake}")
    print(f"done in  {seconds:,.0f} s")


if __name__ == "__main__":
    sys.exit(main())
