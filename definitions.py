"""The one place where assets, checks, jobs, sensors and resources are wired."""

import os

from dagster import Definitions, ExecutorDefinition, in_process_executor, multiprocess_executor

from resources.compute import Compute
from resources.lake import Lake
from resources.pods import executor_config, load_pods
from resources.settings import Settings
from resources.termination import forward_terminations, repeat_lost_interrupts
from yunmin_assets.automation.conditions import with_conditions
from yunmin_assets.automation.jobs import jobs
from yunmin_assets.automation.sensors import sensors
from yunmin_assets.automation.terminal import terminal_logger
from yunmin_assets.columnar.assets import loading_benchmark, parquet_shards, tokenizer
from yunmin_assets.corpus.assets import clean_corpus, raw_corpus
from yunmin_assets.dedup.assets import deduped_corpus, duplicate_clusters, signatures
from yunmin_assets.dem.assets import (
    base_model,
    diff_vector,
    domain_weights,
    joint_adapter,
    lora_adapter,
    merged_model,
)
from yunmin_assets.evaluation.assets import eval_report
from yunmin_assets.pruning.assets import (
    perplexity,
    pruned_corpus,
    pruning_study,
    pruning_thresholds,
    reference_model,
)

# Waiting OpenMP threads sleep instead of spinning: on a busy machine training is then 2.6 times as fast.
# It has to be set before torch is imported, which no module above does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

repeat_lost_interrupts()
settings = Settings.from_environment()

ASSETS = [
    raw_corpus,
    clean_corpus,
    signatures,
    duplicate_clusters,
    deduped_corpus,
    tokenizer,
    reference_model,
    perplexity,
    pruning_thresholds,
    pruned_corpus,
    pruning_study,
    parquet_shards,
    loading_benchmark,
    base_model,
    lora_adapter,
    joint_adapter,
    diff_vector,
    domain_weights,
    merged_model,
    eval_report,
]


def _executor() -> ExecutorDefinition:
    """Where the steps of a run go: into processes, into this process, or into pods (`configs/pods.yaml`)."""
    match os.environ.get("YUNMIN_EXECUTOR", "multiprocess"):
        case "multiprocess":
            return multiprocess_executor.configured({"max_concurrent": 2})
        case "in_process":
            return in_process_executor
        case "kubernetes":
            from dagster_k8s import k8s_job_executor  # of the extra `kubernetes`, which a laptop does without

            forward_terminations()
            names = [asset.key.path[-1] for asset in ASSETS]
            return k8s_job_executor.configured(executor_config(load_pods(), names))
        case name:
            raise ValueError(f"YUNMIN_EXECUTOR is {name!r}: choose multiprocess, in_process or kubernetes")


defs = Definitions(
    assets=with_conditions(ASSETS),
    jobs=jobs,
    sensors=sensors,
    executor=_executor(),
    loggers={"terminal": terminal_logger},
    resources={
        "settings": settings,
        "lake": Lake(uri=settings.pipeline.lake, endpoint_url=settings.pipeline.endpoint_url),
        "compute": Compute(),
    },
)
