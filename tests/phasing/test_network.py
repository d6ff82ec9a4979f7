import math
from typing import Any

import pytest
import torch

from phasing.errors import ModelError
from phasing.network import PtychoNN, halved, load_network, start_weights


def test_has_the_published_number_of_parameters_and_keys() -> None:
    network = PtychoNN()
    assert sum(parameter.numel() for parameter in network.parameters()) == 733_921
    keys = list(network.state_dict())
    assert keys[0] == "encoder.0.weight"
    assert keys[-1] == "decoder2.20.bias"
    assert {key.split(".")[0] for key in keys} == {"encoder", "decoder2"}


@pytest.mark.parametrize("side_px", [16, 64, 128])
def test_gives_one_phase_for_every_pixel(side_px: int) -> None:
    with torch.inference_mode():
        phase_rad = PtychoNN()(torch.full((2, 1, side_px, side_px), 1e4))
    assert phase_rad.shape == (2, 1, side_px, side_px)
    assert phase_rad.abs().max() <= math.pi


def test_started_weights_keep_frames_apart_though_most_light_is_common() -> None:
    torch.manual_seed(0)
    network = PtychoNN()
    counts = 1.0 + 0.01 * torch.rand(16, 1, 32, 32)
    with torch.inference_mode():
        before = network(counts).std(0).mean()
    start_weights(network, counts)
    with torch.inference_mode():
        after = network(counts).std(0).mean()
    assert before < 1e-3
    assert 0.02 < after < 1.0


def test_refuses_weights_of_another_network() -> None:
    state = PtychoNN().state_dict()
    state.pop("encoder.0.bias")
    with pytest.raises(ModelError, match=r"encoder\.0\.bias"):
        load_network(state)


@pytest.mark.parametrize("state", [None, [1.0], {"encoder.0.weight": "none"}])
def test_refuses_what_is_no_state_at_all(state: Any) -> None:
    with pytest.raises(ModelError, match="not PtychoNN's"):
        load_network(state)


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 2, 5), (1, 4, 6, 6)])
def test_the_gradient_of_doubling_is_that_of_pytorch(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    doubled = torch.nn.functional.interpolate(features, scale_factor=2, mode="bilinear")
    gradient = torch.randn_like(doubled)
    doubled.backward(gradient)
    torch.testing.assert_close(halved(gradient), features.grad)
