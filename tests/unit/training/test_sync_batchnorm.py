"""Two processes' BatchNorm is that of one process with all rows; alone it is torch's."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from anyregion.errors import InputError
from anyregion.training.sync_batchnorm import SharedBatchNorm, convert_sync_batchnorm

SHARES = {"uneven": (5, 2), "none in one": (0, 7), "one row each": (1, 1), "none at all": (0, 0)}
WIDTH = 4


def heads(*, momentum: float | None = 0.1) -> nn.Module:
    """Convolution, 2-D norm, mean, 1-D norm without weights, 1-D norm."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, bias=False),
        nn.BatchNorm2d(WIDTH, momentum=momentum),
        nn.ReLU(),
        nn.Flatten(),
        nn.BatchNorm1d(WIDTH * 4, affine=False),
        nn.Linear(WIDTH * 4, 6),
        nn.BatchNorm1d(6, momentum=momentum),
    )
    for norm in (module[1], module[6]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return module


def images(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return 30 + 2 * torch.randn(count, 3, 4, 4, generator=draw)  # a mean far from 0


def outcome(module: nn.Module, x: Tensor, of: range, *, mixed: bool = False) -> dict[str, Any]:
    """Two steps' outputs, gradients (weighted by row) and buffers, of the rows `of`."""
    outputs, slopes = [], []
    for _ in range(2):
        part = x[of.start : of.stop].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            out = module(part)
        weights = torch.arange(len(x))[of.start : of.stop, None].sin()
        (out.float().pow(3) * weights).sum().backward()
        outputs.append(out.detach())
        slopes.append(part.grad)
    return {
        "outputs": torch.stack(outputs),
        "slopes": torch.stack(slopes),
        "gradients": {n: p.grad for n, p in module.named_parameters()},
        "buffers": dict(module.named_buffers()),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results: dict[str, Any] = {}
    for name, counts in SHARES.items():
        before = sum(counts[:rank])
        own = range(before, before + counts[rank])
        for momentum in (0.1, None):
            module = convert_sync_batchnorm(heads(momentum=momentum), "cpu")
            results[f"{name} {momentum}"] = outcome(module, images(sum(counts)), own)
    module = convert_sync_batchnorm(heads(), "cpu")
    results["mixed"] = outcome(module, images(7), range(5 * rank, 5 + 2 * rank), mixed=True)
    alone = SharedBatchNorm(3)
    try:
        alone(torch.ones(1 - rank, 3))
    except InputError as error:
        results["error"] = str(error)
    alone.eval()
    results["eval"] = alone(torch.full((rank, 3), 2.0))
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", ["uneven", "none in one", "one row each"])
def test_two_processes_equal_one(
    both: list[dict[str, Any]], name: str, momentum: float | None
) -> None:
    count = sum(SHARES[name])
    one = outcome(heads(momentum=momentum), images(count), range(count))
    two = [results[f"{name} {momentum}"] for results in both]
    close = {"rtol": 1e-5, "atol": 1e-5}
    for key in ("outputs", "slopes"):
        torch.testing.assert_close(torch.cat([t[key] for t in two], dim=1), one[key], **close)
    # of one scale: before a norm, the bias of a Linear has a gradient of 0 but for rounding
    size = max(float(gradient.abs().max()) for gradient in one["gradients"].values())
    for key, gradient in one["gradients"].items():
        total = two[0]["gradients"][key] + two[1]["gradients"][key]
        torch.testing.assert_close(total / size, gradient / size, **close)
    for key, buffer in one["buffers"].items():
        assert two[0]["buffers"].keys() == one["buffers"].keys()
        for t in two:
            torch.testing.assert_close(t["buffers"][key], buffer, **close)


def test_mixed_precision_counts_in_fp32(both: list[dict[str, Any]]) -> None:
    one = outcome(heads(), images(7), range(7), mixed=True)
    two = [results["mixed"] for results in both]
    assert all(t["outputs"].dtype == one["outputs"].dtype for t in two)
    assert all(b.dtype == one["buffers"][n].dtype for t in two for n, b in t["buffers"].items())
    results = torch.cat([t["outputs"] for t in two], dim=1).float()
    torch.testing.assert_close(results, one["outputs"].float(), rtol=0.05, atol=0.05)
    for key, buffer in one["buffers"].items():
        torch.testing.assert_close(two[0]["buffers"][key], buffer, rtol=1e-2, atol=1e-2)
        assert torch.equal(two[0]["buffers"][key], two[1]["buffers"][key])


def test_no_rows_anywhere(both: list[dict[str, Any]]) -> None:
    before = dict(heads().named_buffers())
    for results in both:
        case = results["none at all 0.1"]
        assert case["outputs"].shape == (2, 0, 6)
        assert all(not gradient.any() for gradient in case["gradients"].values())
        for key, buffer in case["buffers"].items():
            if not key.endswith("num_batches_tracked"):
                assert torch.equal(buffer, before[key])


def test_one_row_in_all_is_refused(both: list[dict[str, Any]]) -> None:
    assert all("one row in all" in results["error"] for results in both)
    assert [len(results["eval"]) for results in both] == [0, 1]
    with pytest.raises(InputError, match="one row in all"):
        SharedBatchNorm(3)(torch.ones(1, 3))
    with pytest.raises(InputError, match="given \\(2, 4\\)"):
        SharedBatchNorm(3)(torch.ones(2, 4))
    assert SharedBatchNorm(3).eval()(torch.ones(1, 3)).shape == (1, 3)


def test_alone_it_is_torchs_own_bit_by_bit() -> None:
    torch.set_num_threads(1)
    plain, shared = heads(), convert_sync_batchnorm(heads(), "cpu")
    kinds = [type(part) for part in shared]
    assert kinds.count(SharedBatchNorm) == 3
    assert list(shared.state_dict()) == list(plain.state_dict())
    expected = outcome(plain, images(7), range(7))
    results = outcome(shared, images(7), range(7))
    for key in ("outputs", "slopes"):
        assert torch.equal(results[key], expected[key])
    for kind in ("gradients", "buffers"):
        for key, value in expected[kind].items():
            assert torch.equal(results[kind][key], value)
    for part in (plain, shared):
        part.eval()
    assert torch.equal(shared(images(3)), plain(images(3)))


def test_parameters_stay_the_same_objects() -> None:
    module = heads()
    module[6].weight.requires_grad_(False)
    module[1].eval()
    before = {name: id(p) for name, p in module.named_parameters()}
    shared = convert_sync_batchnorm(module, "cpu")
    assert {name: id(p) for name, p in shared.named_parameters()} == before
    assert not shared[6].weight.requires_grad
    assert (shared[1].training, shared[6].training) == (False, True)
    assert isinstance(convert_sync_batchnorm(nn.BatchNorm1d(3), "cpu"), SharedBatchNorm)
    assert convert_sync_batchnorm(shared, "cpu") is shared
    cuda = convert_sync_batchnorm(heads(), "cuda")
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in cuda) == 3
    assert list(cuda.state_dict()) == list(shared.state_dict())


def test_a_kind_of_its_own_is_refused() -> None:
    class Own(nn.BatchNorm2d):
        pass

    for device in ("cpu", "cuda"):
        with pytest.raises(InputError, match="0: a Own cannot be synchronised"):
            convert_sync_batchnorm(nn.Sequential(Own(3)), device)
