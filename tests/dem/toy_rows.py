"""Packed rows of the toy domains, as `parquet_shards` holds them, made with a base model's own tokenizer."""

from pathlib import Path

import pyarrow as pa

from tests.language_model.toy import TOY_LENGTH, toy_texts
from yunmin_assets.columnar import PackConfig, pack_documents, tokenize_documents, tokenizer_hash
from yunmin_assets.dem import AdapterJob, LoraConfig
from yunmin_assets.language_model import EarlyStoppingConfig, TrainingConfig, load_tokenizer

JOB_CONFIG = LoraConfig(
    rank=4,
    alpha=8.0,
    training=TrainingConfig(
        steps=12, batch_size=4, warmup_steps=2, learning_rate=2e-2, checkpoint_every=2, seed=3
    ),
    early_stopping=EarlyStoppingConfig(validate_every=3, patience=9, rows=8),
)


def pack_toy_domain(base: Path, domain: str, folder: Path, sentences: int = 120) -> Path:
    """Write `<folder>/train` and `<folder>/validation`; validation sentences are other ones."""
    tokenizer = load_tokenizer(base)
    config = PackConfig(seq_len=TOY_LENGTH, vocab_size=len(tokenizer), eos_id=tokenizer.eos_token_id)
    texts = toy_texts(domain, sentences + 60)
    for split, chosen in (("validation", texts[:60]), ("train", texts[60:])):
        tokens = tokenize_documents(pa.table({"text": chosen}), base)
        pack_documents(tokens, folder / split, config, domain=domain, tokenizer_hash=tokenizer_hash(base))
    return folder


def toy_job(base: Path, home: Path, *domains: str, config: LoraConfig = JOB_CONFIG) -> AdapterJob:
    """A job on domains that lie packed in `<home>/<domain>`, on the CPU."""
    return AdapterJob(
        base=base,
        train={domain: home / domain / "train" for domain in domains},
        validation={domain: home / domain / "validation" for domain in domains},
        config=config,
        out=home / "adapter",
        checkpoints=home / "checkpoints",
        device="cpu",
    )
