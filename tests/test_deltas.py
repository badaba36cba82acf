"""Weights as frames, whole and as changes: what comes out is bit for bit what went in, or nothing."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.support.tensors import changed, decoded, large
from tests.support.wire import assert_same, weights
from tsd.errors import WeightsError
from tsd.transport.deltas import BLOCK, Frame, History, checksum, encode_update, num_bytes
from tsd.types import WeightUpdate

HALVES = arrays.array_shapes(min_dims=0, max_dims=2, max_side=40)


@st.composite
def two_versions(draw: st.DrawFn) -> tuple[WeightUpdate, WeightUpdate]:
    """Any bits at all, NaNs with payloads and both zeros among them, and any of them changed to any others."""
    before, now = {}, {}
    for name in draw(st.lists(st.sampled_from("abc"), unique=True, min_size=1)):
        bits, dtype = draw(st.sampled_from([("u4", "<f4"), ("u2", "<u2")]))
        shape = draw(HALVES)
        old = draw(arrays.arrays(bits, shape))
        new = draw(arrays.arrays(bits, shape))
        where = draw(arrays.arrays(bool, shape, elements=st.booleans(), fill=st.just(False)))
        before[name], now[name] = old.view(dtype), np.where(where, new, old).astype(bits).view(dtype)
    return WeightUpdate(3, before), WeightUpdate(4, now)


@given(two_versions())
def test_a_delta_gives_back_every_bit(versions: tuple[WeightUpdate, WeightUpdate]) -> None:
    before, now = versions
    part = encode_update(now, before)
    assert_same(decoded(part.frames, before), now)
    assert_same(decoded(encode_update(now).frames), now)
    differs = [now.tensors[name].tobytes() != before.tensors[name].tobytes() for name in now.tensors]
    assert len(part.frames) == 1 + sum(differs), "what has not changed does not travel"
    assert (checksum(before) == checksum(msgspec.structs.replace(now, version=3))) == (not any(differs))


def test_zeros_of_either_sign_and_not_a_numbers_count_as_changes_of_bits() -> None:
    def bits(*numbers: int) -> WeightUpdate:
        return WeightUpdate(1, {"a": np.array(numbers, "<u4").view("<f4")})

    before, now = bits(0, 0x7FC00001, 0x7FC00001, 5), bits(0x80000000, 0x7FC00002, 0x7FC00001, 5)
    part = encode_update(now, before)
    assert part.num_changed == 2
    assert_same(decoded(part.frames, before), now)


@pytest.mark.parametrize("dtype", ["<f4", "<u2"])
@pytest.mark.parametrize("share", [0.0, 0.0003, 0.01, 0.05, 0.3, 0.9, 1.0])
def test_a_delta_is_never_much_larger_than_the_whole_and_small_where_little_changed(dtype: str, share: float) -> None:
    before = large(dtype)
    now = changed(before, share)
    part = encode_update(now, before)
    assert_same(decoded(part.frames, before), now)
    size = np.dtype(dtype).itemsize
    position_bytes = min(2.0, 1 / (8 * share)) if share else 0  # a place of two bytes, or its share of a bitmap
    expected = min(part.num_changed * (size + position_bytes), num_bytes(now)) + 400
    assert part.num_bytes <= expected


@pytest.mark.parametrize("dtype", ["<f4", "<u2"])
@pytest.mark.parametrize("size", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_changes_at_the_edges_of_blocks_and_of_any_number_in_one_come_back(dtype: str, size: int) -> None:
    before = WeightUpdate(1, {"a": np.zeros(size, dtype)})
    edges = [place for place in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK - 1, size - 1) if place < size]
    for places in (edges, range(0, size, 2), range(0, size, 11), range(size // 3), range(size - 1), range(size)):
        tensor = before.tensors["a"].copy()
        tensor[list(places)] = 7
        now = WeightUpdate(2, {"a": tensor})
        part = encode_update(now, before)
        assert_same(decoded(part.frames, before), now)
        assert part.num_bytes < 150 + 4 * (size // BLOCK + 1) + (2 + tensor.itemsize) * len(places)
        assert part.num_bytes < 150 + tensor.nbytes


def test_weights_survive_bit_for_bit_whatever_their_shape_and_layout() -> None:
    update = weights(9)
    update.tensors["transposed"] = np.arange(6, dtype="<f4").reshape(2, 3).T
    update.tensors["big-endian"] = np.arange(6, dtype=">f4")
    found = decoded(encode_update(update).frames)
    assert found.version == 9
    for name, tensor in update.tensors.items():
        assert found.tensors[name].shape == tensor.shape
        np.testing.assert_array_equal(found.tensors[name], tensor)


def test_a_delta_of_other_weights_is_refused() -> None:
    first, second = large("<u2"), changed(large("<u2"), 0.02)
    frames = encode_update(changed(second, 0.02, seed=1), second).frames
    with pytest.raises(WeightsError, match="weights 2: they are changes of weights 1, and there are 0"):
        decoded(frames, first)
    with pytest.raises(WeightsError, match="weights 2: they are changes of weights 1, and there are None"):
        decoded(frames)
    of_another_trainer = changed(large("<u2"), 0.02, seed=5)
    assert of_another_trainer.version == second.version
    with pytest.raises(WeightsError, match="weights 2: a is damaged: its checksum is wrong"):
        decoded(frames, of_another_trainer)
    reshaped = WeightUpdate(1, second.tensors | {"a": second.tensors["a"].T})
    with pytest.raises(WeightsError, match="weights 2: a is damaged: its changes are of another tensor"):
        decoded(frames, reshaped)


def flip(frame: Frame) -> bytes:
    """With one bit changed."""
    return bytes([frame[0] ^ 1]) + bytes(frame[1:])


DAMAGES: list[tuple[Callable[[list[Frame]], list[Frame]], str]] = [
    (lambda frames: [frames[0], flip(frames[1]), *frames[2:]], r"weights 1: a is damaged"),
    (lambda frames: [*frames[:2], frames[2][:-4], *frames[3:]], r"weights 1: b is damaged"),
    (lambda frames: [*frames[:2], frames[2][:-3], *frames[3:]], r"weights 1: b is damaged"),
    (lambda frames: [*frames[:2], b"", *frames[3:]], r"weights 1: b is damaged"),
    (lambda frames: frames[:-1], "weights 1: expected 3 tensors, found 2"),
    (lambda frames: [*frames, b""], "weights 1: expected 3 tensors, found 4"),
    (lambda frames: [frames[0], frames[2], frames[1], frames[3]], "damaged"),
    (lambda frames: [frames[0][:-1], *frames[1:]], "damaged header"),
    (lambda frames: [], "damaged header"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("share", [0.01, 0.3, None])
def test_damaged_frames_are_refused(
    damage: Callable[[list[Frame]], list[Frame]], message: str, share: float | None
) -> None:
    before = large("<f4")
    part = encode_update(changed(before, share or 1.0), before if share else None)
    with pytest.raises(WeightsError, match=message):
        decoded(damage(part.frames), before)


def test_what_lies_in_memory_already_is_not_copied_to_be_given_out() -> None:
    update = large("<f4")
    for tensor, frame in zip(update.tensors.values(), encode_update(update).frames[1:], strict=True):
        assert np.shares_memory(np.frombuffer(frame, "<f4"), tensor)
        assert bytes(frame) == tensor.tobytes()


# History


def test_a_history_leads_from_any_version_it_keeps_to_the_newest() -> None:
    versions = [large("<u2")]
    history = History.begin(versions[0])
    for number in range(6):
        versions.append(changed(versions[-1], 0.01, seed=number))
        history = history.then(versions[-1])
    assert history.checksum == checksum(versions[-1])
    for version, update in enumerate(versions[:-1]):
        found = update
        for part in history.since(version):
            found = decoded(part.frames, found)
        assert_same(found, versions[-1])
        assert len(history.since(version)) == 6 - version
    for other in (None, -1, 6, 99):
        assert history.since(other) == (history.whole,)


@pytest.mark.parametrize(("share", "most"), [(0.001, 16), (0.05, 13), (0.3, 2), (1.0, 0)])
def test_deltas_kept_are_together_smaller_than_the_weights(share: float, most: int) -> None:
    update = large("<u2")
    history = History.begin(update)
    for number in range(40):
        update = changed(update, share, seed=number)
        history = history.then(update)
        assert sum(delta.num_bytes for delta in history.deltas) < history.whole.num_bytes
    assert min(1, most) <= len(history.deltas) <= most
    assert history.newest is (history.deltas[-1] if most else history.whole)
