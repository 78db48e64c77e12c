"""The scan of Mamba-1 in whole models: it trains and generates as the stock scan does, on a CPU and only there."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import FalconMambaConfig, FalconMambaForCausalLM
from transformers.models.falcon_mamba import modeling_falcon_mamba
from transformers.models.mamba import modeling_mamba

from tests.language_model.toy import VOCABULARY, toy_model
from yunmin_assets.language_model import load_model
from yunmin_assets.language_model.architecture import use_device
from yunmin_assets.language_model.selective_scan import install_cpu_scan, selective_scan
from yunmin_assets.language_model.selective_scan_kernels import CHUNK

TOLERANCE = 1e-5

install_cpu_scan("mamba")
install_cpu_scan("falcon_mamba")
STOCK = modeling_mamba.mamba_selective_scan.__wrapped__


def assert_near(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """The largest error is within the tolerance of the largest value."""
    for got, wanted in zip(found, expected, strict=True):
        assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def scan_arguments(device: str = "cpu") -> list[Tensor]:
    """Random hidden states, Δ, A, B and C in the layout of transformers."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 24, 40), (2, 24, 40), (24, 8), (2, 8, 40), (2, 8, 40)]
    u, dt, rates, b, c = (torch.randn(shape, generator=draw) for shape in shapes)
    return [x.to(device) for x in (u, dt.abs() / 10, -rates.exp(), b, c)]


@contextmanager
def scanning_with(scan: Callable[..., object], module: ModuleType = modeling_mamba) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "mamba_selective_scan", scan)
        yield


def padded_batch() -> dict[str, Tensor]:
    """Two rows, the second with five positions of padding on the left."""
    ids = torch.randint(VOCABULARY, (2, 2 * CHUNK + 3), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def loss_and_gradients(model: torch.nn.Module) -> list[Tensor]:
    model.zero_grad()
    loss = model(**padded_batch()).loss
    loss.backward()
    return [loss.detach(), *(x.grad.clone() for x in model.parameters() if x.requires_grad)]


def test_a_model_trains_with_the_gradients_of_the_stock_scan() -> None:
    model = toy_model("mamba").train()
    ours = loss_and_gradients(model)
    with scanning_with(STOCK):
        stock = loss_and_gradients(model)
    assert len(ours) > 10
    assert_near(ours, stock)


def test_so_does_an_adapter() -> None:
    options = LoraConfig(r=4, target_modules=["in_proj", "x_proj"], init_lora_weights=False)
    model = get_peft_model(toy_model("mamba"), options).train()
    ours = loss_and_gradients(model)
    with scanning_with(STOCK):
        stock = loss_and_gradients(model)
    assert len(ours) == 1 + 2 * 2 * 2 and all(x.abs().max() > 0 for x in ours)
    assert_near(ours, stock)


def test_gradient_checkpointing_changes_no_bit() -> None:
    model = toy_model("mamba").train()
    plain = loss_and_gradients(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert all(map(torch.equal, loss_and_gradients(model), plain))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_has_the_logits_of_training(mode: Callable[[], torch.no_grad]) -> None:
    model = toy_model("mamba").eval()
    trained_with = model(**padded_batch()).logits
    with mode():
        assert torch.equal(model(**padded_batch()).logits, trained_with)


def test_generation_with_its_cache_continues_as_the_stock_scan_does() -> None:
    model = toy_model("mamba").eval()
    prompt = {name: padded_batch()[name] for name in ("input_ids", "attention_mask")}
    options = {
        "max_new_tokens": 12,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    ours = model.generate(**prompt, **options)
    with scanning_with(STOCK):
        stock = model.generate(**prompt, **options)
    assert torch.equal(ours.sequences, stock.sequences)
    assert_near(list(ours.logits), list(stock.logits))


def test_falcon_mamba_is_a_mamba_1_too() -> None:
    config = FalconMambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    model = FalconMambaForCausalLM(config).train()
    stock_scan = modeling_falcon_mamba.mamba_selective_scan.__wrapped__
    ours = loss_and_gradients(model)
    with scanning_with(stock_scan, modeling_falcon_mamba):
        stock = loss_and_gradients(model)
    assert_near(ours, stock)


def test_building_and_loading_a_mamba_put_it_in_place_once(tmp_path: Path) -> None:
    with scanning_with(STOCK):
        model = toy_model("mamba")
        installed = modeling_mamba.mamba_selective_scan
        assert installed is not STOCK and installed.__wrapped__ is STOCK
        toy_model("mamba")
        assert modeling_mamba.mamba_selective_scan is installed
        model.save_pretrained(tmp_path)
    with scanning_with(STOCK):
        load_model(tmp_path)
        assert modeling_mamba.mamba_selective_scan.__wrapped__ is STOCK


def test_other_devices_get_what_transformers_has() -> None:
    stock_calls = []

    def recording_stock(
        hidden_states, dt, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,  # noqa: N803
        return_last_state=False, use_mambapy=False, use_associative_scan=False, **kwargs,
    ):  # fmt: skip
        stock_calls.append(hidden_states.device.type)
        return STOCK(hidden_states, dt, A, B, C)

    with scanning_with(recording_stock):
        install_cpu_scan("mamba")
        for device in ("cpu", "meta"):
            scan = modeling_mamba.mamba_selective_scan
            assert scan(*scan_arguments(device)).device.type == device
    assert stock_calls == ["meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_bits_of_transformers_own_scan() -> None:
    arguments = scan_arguments("cuda")
    assert torch.equal(modeling_mamba.mamba_selective_scan(*arguments), STOCK(*arguments))


def test_a_transformers_without_the_function_or_with_other_arguments_is_refused() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(modeling_mamba, "mamba_selective_scan")
        with pytest.raises(RuntimeError, match=r"modeling_mamba\.mamba_selective_scan .* takes None"):
            install_cpu_scan("mamba")
    with scanning_with(lambda u, delta: None), pytest.raises(RuntimeError, match=r"takes \['u', 'delta'\]"):
        install_cpu_scan("mamba")
    with scanning_with(lambda u, delta: None), pytest.raises(RuntimeError, match="adapt"):
        toy_model("mamba")


def test_but_not_where_no_model_runs_on_a_cpu() -> None:
    def other(u, delta):
        """A scan of another transformers."""

    with scanning_with(other):
        install_cpu_scan("mamba", is_needed=False)
        assert modeling_mamba.mamba_selective_scan is other
        use_device("meta")
        try:
            assert toy_model("mamba").device.type == "meta"
        finally:
            use_device(None)


FAKE_KERNELS = {
    "mamba_ssm/__init__.py": "",
    "mamba_ssm/ops/__init__.py": "",
    "mamba_ssm/ops/triton/__init__.py": "",
    "mamba_ssm/ops/selective_scan_interface.py": "mamba_inner_fn selective_scan_fn",
    "mamba_ssm/ops/triton/selective_state_update.py": "selective_state_update",
    "mamba_ssm/ops/triton/ssd_combined.py": "mamba_chunk_scan_combined mamba_split_conv1d_scan_combined",
    "causal_conv1d/__init__.py": "causal_conv1d_fn causal_conv1d_update",
}
"""Where the packages have the functions that transformers looks for."""
REFUSES_THE_CPU = """
def {name}(first, *rest, **options):
    if first.device.type == "cpu":
        raise RuntimeError("{name}: expected CUDA tensors")
    return "{name}"
"""
WITH_KERNELS = """
import sys, torch
from importlib import import_module
from tests.language_model.toy import toy_model
architecture = sys.argv[1]
model = toy_model(architecture)
ids = torch.arange(12)[None]
loss = model.train()(input_ids=ids, labels=ids).loss
loss.backward()
assert all(x.grad is not None for x in model.parameters())
tokens = model.eval().generate(ids, max_new_tokens=3, do_sample=False)
module = import_module(f"transformers.models.{architecture}.modeling_{architecture}")
first = "mamba_inner_fn" if architecture == "mamba" else "mamba2_split_conv1d_scan_combined"
assert getattr(module, first)(torch.empty(1, device="meta")) == first.replace("mamba2", "mamba")
print(loss.item(), tokens.tolist())
"""


@pytest.mark.parametrize("architecture", ["mamba", "mamba2"])
def test_where_fused_kernels_are_installed_a_cpu_computes_as_without_them(
    tmp_path: Path, architecture: str
) -> None:
    for file, names in FAKE_KERNELS.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("".join(REFUSES_THE_CPU.format(name=name) for name in names.split()))
    torch.manual_seed(0)
    model, ids = toy_model(architecture), torch.arange(12)[None]
    loss = model.train()(input_ids=ids, labels=ids).loss.item()
    tokens = model.eval().generate(ids, max_new_tokens=3, do_sample=False).tolist()
    search = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", WITH_KERNELS, architecture],
        capture_output=True,
        text=True,
        env=os.environ | search,
    )
    assert done.stdout == f"{loss} {tokens}\n", done.stderr


MAMBA_2 = """
import hashlib, torch
from transformers import Mamba2Config, Mamba2ForCausalLM
torch.set_num_threads(1)
torch.manual_seed(0)
sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8, head_dim=16, num_heads=4, n_groups=1)
model = Mamba2ForCausalLM(Mamba2Config(**sizes, pad_token_id=0, bos_token_id=0, eos_token_id=0))
logits = model(torch.arange(40).view(2, 20)).logits
logits.square().mean().backward()
digest = hashlib.sha256(logits.detach().numpy().tobytes())
for parameter in model.parameters():
    digest.update(parameter.grad.numpy().tobytes())
print(digest.hexdigest())
"""


def test_mamba_2_computes_the_same_bits_where_none_of_this_was_imported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = subprocess.run([sys.executable, "-c", MAMBA_2], capture_output=True, text=True, check=True)
    toy_model("mamba2")
    exec(MAMBA_2, {})
    assert capsys.readouterr().out == alone.stdout


def test_the_arguments_are_those_of_transformers() -> None:
    assert list(inspect.signature(selective_scan).parameters) == list(inspect.signature(STOCK).parameters)
