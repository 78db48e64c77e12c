"""What a user tunes: `configs/pipeline.yaml`, checked key by key."""

import os
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import yaml
from dagster import ConfigurableResource
from pydantic import Field, ValidationError, model_validator
from upath import UPath

from resources.lake import open_uri
from resources.snapshot import Snapshot
from yunmin_assets.columnar.config import PackConfig, PackOptions, TokenizerConfig
from yunmin_assets.config_model import ConfigModel
from yunmin_assets.corpus.config import CorpusConfig
from yunmin_assets.dedup.boilerplate.config import BoilerplateConfig
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.splits import SplitConfig
from yunmin_assets.dem.config import BaseModelConfig, LoraConfig, MergeConfig, WeightsConfig
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.pruning.config import PruningConfig, ReferenceConfig, StudyConfig

WEIGHT_TOLERANCE = 1e-6
REPOSITORY = Path(__file__).resolve().parent.parent


class PipelineConfig(ConfigModel):
    """Every option of the graph; one section per stage."""

    raw: str = "data/demo/raw"
    """Folder or `s3://` prefix with `<domain>.jsonl[.gz|.zst]`, `<domain>.parquet` or `<domain>/…`."""
    lake: str = "data/demo/lake"
    """Folder or `s3://` prefix of the lake."""
    endpoint_url: str | None = None
    """Endpoint of an S3-compatible store."""
    raw_settle_seconds: float = Field(default=10.0, gt=0)
    """How long a domain's raw objects must have been seen unchanged before its run is requested."""
    corpus: CorpusConfig = CorpusConfig()
    dedup: DedupConfig = DedupConfig()
    boilerplate: BoilerplateConfig = BoilerplateConfig()
    splits: SplitConfig = SplitConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    reference_model: ReferenceConfig = ReferenceConfig()
    pruning: PruningConfig = PruningConfig()
    pruning_study: StudyConfig = StudyConfig()
    pack: PackOptions = PackOptions()
    base_model: BaseModelConfig = BaseModelConfig()
    lora_adapter: LoraConfig = LoraConfig()
    domain_weights: WeightsConfig = WeightsConfig()
    merged_model: MergeConfig = MergeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _slerp_has_given_weights(self) -> "PipelineConfig":
        weights = self.domain_weights
        sums_to_one = weights.normalize or abs(sum(weights.fixed.values()) - 1) < WEIGHT_TOLERANCE
        if self.merged_model.method == "slerp" and not (weights.method == "fixed" and sums_to_one):
            raise ValueError(
                "merged_model.method slerp needs two weights that sum to 1, which a search does not give: set "
                "domain_weights to {method: fixed, normalize: true, fixed: {<domain>: …, <domain>: …}}"
            )
        return self


class Settings(ConfigurableResource):
    """Reads the pipeline's configuration; `YUNMIN_CONFIG`, `YUNMIN_RAW` and `YUNMIN_LAKE` override."""

    path: str

    @classmethod
    def from_environment(cls) -> "Settings":
        """Settings from `$YUNMIN_CONFIG`, by default `configs/pipeline.yaml`."""
        return cls(path=os.environ.get("YUNMIN_CONFIG", str(REPOSITORY / "configs" / "pipeline.yaml")))

    @cached_property
    def pipeline(self) -> PipelineConfig:
        """The checked configuration.

        Raises:
            ValueError: the file is absent, is no YAML, or holds an unknown or ill-typed key.
        """
        return load_pipeline_config(Path(self.path))

    def pack_config(self, tokenizer: Snapshot) -> PackConfig:
        """The layout of packed rows for a published tokenizer."""
        vocabulary = tokenizer.manifest.summary["metadata"]
        return PackConfig(
            **self.pipeline.pack.model_dump(),
            vocab_size=vocabulary["vocab_size"],
            eos_id=vocabulary["eos_id"],
        )

    def raw_root(self) -> UPath:
        """Where raw objects lie."""
        return open_uri(self.pipeline.raw, self.pipeline.endpoint_url)


def load_pipeline_config(path: Path) -> PipelineConfig:
    """Read a pipeline configuration; relative folders in it are relative to the repository.

    Raises:
        ValueError: the file is absent, is no YAML, or holds an unknown or ill-typed key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist: set YUNMIN_CONFIG to a pipeline configuration") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    overrides = {"raw": os.environ.get("YUNMIN_RAW"), "lake": os.environ.get("YUNMIN_LAKE")}
    values |= {key: value for key, value in overrides.items() if value}
    try:
        config = PipelineConfig(**values)
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{path}: {places}") from error
    return config.model_copy(
        update={
            "raw": _absolute(config.raw),
            "lake": _absolute(config.lake),
            "tokenizer": _with_absolute_path(config.tokenizer),
            "reference_model": _with_absolute_path(config.reference_model),
            "base_model": _with_absolute_path(config.base_model),
        }
    )


PathConfig = TypeVar("PathConfig", TokenizerConfig, ReferenceConfig, BaseModelConfig)


def _with_absolute_path(config: PathConfig) -> PathConfig:
    if not isinstance(config.path, Path):
        return config
    return config.model_copy(update={"path": REPOSITORY / config.path.expanduser()})


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(REPOSITORY / Path(uri).expanduser())
