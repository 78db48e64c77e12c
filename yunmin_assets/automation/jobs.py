"""Named jobs for people.

`whole_pipeline` is every asset but the pruning study, `per_domain_chain` what one domain needs from raw text to its
difference vector, `merge_and_evaluate` what follows when any domain has changed. `study_pruning` trains many models,
so it runs only when a person asks for it. Materialize several domains of `whole_pipeline` as a backfill from the
asset graph, so that assets over all domains run once.
"""

from dagster import AssetSelection, define_asset_job

INGEST = ("raw_corpus", "clean_corpus", "signatures")
"""The part of a domain's chain that needs no model and no other domain."""

GLOBAL_MODELS = ("tokenizer", "reference_model", "base_model")
"""What the rest of a domain's chain builds on; made once by `whole_pipeline`."""

CHAIN = (
    *INGEST,
    "duplicate_clusters",
    "deduped_corpus",
    "perplexity",
    "pruning_thresholds",
    "pruned_corpus",
    "parquet_shards",
    "lora_adapter",
    "diff_vector",
)
"""One domain from raw text to its difference vector, with the two assets over all domains that lie between."""

FAN_INS = ("joint_adapter", "domain_weights", "merged_model", "loading_benchmark", "eval_report")
"""What follows, once for all domains, when any of them has changed."""

STUDY = AssetSelection.assets("pruning_study")

whole_pipeline = define_asset_job(
    "whole_pipeline",
    selection=AssetSelection.all() - STUDY,
    description="Every asset from raw text to the evaluation report; not the pruning study.",
)

per_domain_chain = define_asset_job(
    "per_domain_chain",
    selection=AssetSelection.assets(*CHAIN),
    description="One domain from raw text to its difference vector, deduplicated against all others.",
)

merge_and_evaluate = define_asset_job(
    "merge_and_evaluate",
    selection=AssetSelection.assets(*FAN_INS),
    description="Joint control, domain weights, merged model, loading speed and the report.",
)

study_pruning = define_asset_job(
    "study_pruning",  # not the name of its asset, which Dagster does not allow
    selection=STUDY,
    description="Which pruning criterion: a model trained for each, on equal tokens. Needs perplexity in every domain.",
)

jobs = [whole_pipeline, per_domain_chain, merge_and_evaluate, study_pruning]
