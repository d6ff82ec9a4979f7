"""PtychoNN, the network that turns one diffraction frame into the phase of the sample under the probe.

Source: the published code of Babu et al. 2023 (arXiv 2304.04297); 733,921 parameters, and the same keys in the
state dict, so that published weights load. This module needs torch: import it where a network is needed.
"""

import math
from typing import Any, cast

import torch
from torch import nn

from phasing.errors import ModelError, one_line

CHANNELS = (16, 32, 64, 128)
SIDE_STEP_PX = 2 ** len(CHANNELS)
"""Frames must have a side that four poolings by two divide."""
_SPREAD = 1.0 / 3.0
_LAST_SPREAD = 1.0 / 30.0
_LEAST_SPREAD = 1e-6


class Doubling(nn.Upsample):
    """Bilinear upsampling by two that on a GPU, too, learns the same each time: PyTorch's own adds up in any order."""

    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="bilinear")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) to (B, C, 2 h, 2 w)."""
        if features.is_cuda and features.requires_grad:
            return cast(torch.Tensor, _Doubled.apply(features))
        return super().forward(features)


class _Doubled(torch.autograd.Function):
    """Upsampling whose gradient is written down."""

    @staticmethod
    def forward(context: Any, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(features, scale_factor=2, mode="bilinear")

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return halved(gradients[0])


def halved(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient before bilinear doubling, (B, C, h, w), from that after it, (B, C, 2 h, 2 w).

    Along each axis pixel i gave 3/4 to 2 i and to 2 i + 1, 1/4 to those on either side; at an edge that went to the
    pixel at the edge.
    """
    channels = gradient.shape[1]
    share = torch.tensor([0.25, 0.75, 0.75, 0.25], dtype=gradient.dtype, device=gradient.device)
    kernel = torch.outer(share, share).expand(channels, 1, 4, 4)
    beyond = nn.functional.pad(gradient, (1, 1, 1, 1), mode="replicate")
    return nn.functional.conv2d(beyond, kernel, stride=2, groups=channels)


class PtychoNN(nn.Module):
    """Encoder and phase decoder of 3 x 3 convolutions, without batch normalisation and without an amplitude head."""

    def __init__(self) -> None:
        super().__init__()
        encoder: list[nn.Module] = []
        width = 1
        for channels in CHANNELS:
            encoder += [*_two_convolutions(width, channels), nn.MaxPool2d(2)]
            width = channels
        decoder: list[nn.Module] = []
        for channels in reversed(CHANNELS):
            decoder += [*_two_convolutions(width, channels), Doubling()]
            width = channels
        self.encoder = nn.Sequential(*encoder)
        self.decoder2 = nn.Sequential(*decoder, nn.Conv2d(width, 1, 3, padding=1), nn.Tanh())

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """(B, 1, n, n) scaled counts to (B, 1, n, n) phase in rad, within -pi and pi; n a multiple of 16."""
        features = self.encoder(counts)  # (B, 128, n / 16, n / 16)
        return cast(torch.Tensor, self.decoder2(features)) * math.pi  # (B, 1, n, n)


def _two_convolutions(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    ]


def load_network(state: dict[str, torch.Tensor]) -> PtychoNN:
    """A network with these weights, in evaluation mode.

    Raises ModelError when keys or shapes are not PtychoNN's.
    """
    network = PtychoNN()
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # wrong keys or shapes; no tensors; not even a mapping
        raise ModelError(f"weights are not PtychoNN's: {one_line(error)}") from error
    return network.eval()


def start_weights(network: PtychoNN, counts: torch.Tensor) -> None:
    """Draw first weights such that from layer to layer the frames stay as different from one another as they are.

    counts: (B, 1, n, n) scaled counts of some training frames. Layer by layer, as in D. Mishkin and J. Matas, "All you
    need is a good init" (ICLR 2016), but what is brought to one size is the spread between frames, and the mean over
    all frames is taken away by the bias. Frames have most of their light in common; with weights that keep it, the
    network predicts one and the same patch for many epochs before it finds out what differs.
    """
    with torch.no_grad():
        features = counts
        layers = [*network.encoder, *network.decoder2]
        last = max(k for k, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
        for k, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                _start_layer(layer, features, _LAST_SPREAD if k == last else _SPREAD)
            features = layer(features)


def _start_layer(layer: nn.Conv2d, features: torch.Tensor, spread: float) -> None:
    nn.init.kaiming_normal_(layer.weight)
    assert layer.bias is not None
    layer.bias.zero_()
    outputs = layer(features)
    between_frames = (outputs - outputs.mean(0)).std(dim=(0, 2, 3))
    factor = spread / between_frames.clamp_min(_LEAST_SPREAD)
    layer.weight *= factor[:, None, None, None]
    layer.bias.copy_(-outputs.mean(dim=(0, 2, 3)) * factor)
