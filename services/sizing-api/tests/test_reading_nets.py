"""Networks that read a photo's numbers: kept and loaded again, and the mean of several."""

from __future__ import annotations

import numpy as np
import pytest

from wearon_sizing.reading_nets import ReadingNets, kept_nets, nets_from

INPUTS, HIDDEN, OUTPUTS = 3, 2, 2


def straight(*slopes: float) -> ReadingNets:
    """One network for each slope; all it does is to multiply the sum of its inputs by that."""
    nothing = [
        np.zeros((len(slopes), *shape), np.float32)
        for shape in (
            (INPUTS, HIDDEN),
            (1, HIDDEN),
            (HIDDEN, HIDDEN),
            (1, HIDDEN),
            (HIDDEN, OUTPUTS),
            (1, OUTPUTS),
        )
    ]
    line = np.stack([np.full((INPUTS, OUTPUTS), slope, np.float32) for slope in slopes])
    return ReadingNets((*nothing, line), np.array([90.0, 30.0]), np.array([10.0, 1.0]))


def test_the_mean_of_the_networks_is_answered_in_cm() -> None:
    read = straight(0.5, 1.5)(np.array([[0, 0, 0], [1, 1, 0]], np.float32))
    assert read == pytest.approx(np.array([[90, 30], [110, 32]]))


def test_what_the_hidden_layers_find_is_added_to_the_line() -> None:
    nets = straight(0.0)
    for layer in (nets.weights[0], nets.weights[2], nets.weights[4]):
        layer[0, 0, 0] = 1
    # SiLU of 1 is 0.731, of that 0.4935, ten centimetres each.
    assert nets(np.array([[1, 0, 0]], np.float32)) == pytest.approx(np.array([[94.935, 30]]), abs=0.001)


def test_networks_that_were_kept_read_the_same() -> None:
    nets, photo = straight(0.25), np.ones((1, INPUTS), np.float32)
    assert nets_from(kept_nets("some", nets), "some")(photo) == pytest.approx(nets(photo))
