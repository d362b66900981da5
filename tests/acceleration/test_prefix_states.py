"""Stored states, fixed batches and the file that holds states."""

import pytest
import torch

from fedpeft.acceleration.prefix_states import FixedBatch, PrefixStates, StatesFile, make_fixed_batches
from fedpeft.errors import UserError


def test_fixed_batches_have_similar_lengths_and_a_sequence_is_in_one():
    batches = make_fixed_batches([(1, 2, 3), (4,), (5, 6), (4,), (7, 8, 9, 10), (1, 2)], 2)
    assert {ids: batch.sequences for ids, batch in batches.items()} == {
        (4,): ((4,), (5, 6)),
        (5, 6): ((4,), (5, 6)),
        (1, 2): ((1, 2), (1, 2, 3)),
        (1, 2, 3): ((1, 2), (1, 2, 3)),
        (7, 8, 9, 10): ((7, 8, 9, 10),),
    }
    assert len({batch.digest for batch in batches.values()}) == 3


def test_the_digest_is_of_the_sequences_in_their_order():
    assert FixedBatch(((1, 2), (3,))).digest == FixedBatch(((1, 2), (3,))).digest
    others = [FixedBatch(((1, 2),)), FixedBatch(((3,), (1, 2))), FixedBatch(((1,), (2, 3)))]
    assert FixedBatch(((1, 2), (3,))).digest not in {other.digest for other in others}


def test_states_are_cast_and_remember_the_dtype_that_the_block_returned():
    entry = PrefixStates(torch.tensor([[1.001]]), torch.float32, 2)
    assert entry.cast(None) is entry
    rounded = entry.cast(torch.bfloat16)
    assert rounded.states.dtype == torch.bfloat16 and rounded.states.item() == 1.0
    assert (rounded.dtype, rounded.tuple_size) == (torch.float32, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_file_returns_what_was_written(dtype, tmp_path):
    file = StatesFile(tmp_path, 1024)
    first, second = torch.randn(3, 4).to(dtype), torch.randn(2, 5).to(dtype)
    from_file = [file.write(first, 0), file.write(second.T, 512)]  # not contiguous
    assert torch.equal(from_file[0], first) and torch.equal(from_file[1], second.T)
    file.write(torch.zeros(3, 4, dtype=dtype), 0)
    assert not from_file[0].any(), "it is mapped, not copied"
    assert list(tmp_path.iterdir()) == []  # the file has no name


class _Disk:
    """A file that takes `room` bytes in all and never more than 100 at a time."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def seek(self, offset):
        self.file.seek(offset)

    def write(self, data):
        size = min(len(data), 100, self.room)
        if not size:
            raise OSError(28, "No space left on device")
        self.room -= size
        return self.file.write(data[:size])


def test_a_disk_may_take_values_in_parts(tmp_path):
    file, values = StatesFile(tmp_path, 4096), torch.randn(20, 12)
    file._file = _Disk(file._file, room=960)
    assert torch.equal(file.write(values, 64), values)


def test_a_full_disk_is_an_error(tmp_path):
    file = StatesFile(tmp_path, 4096)
    file._file = _Disk(file._file, room=500)
    with pytest.raises(OSError, match="No space left on device"):
        file.write(torch.randn(20, 12), 0)


def test_a_folder_must_exist_and_have_room(tmp_path):
    with pytest.raises(UserError, match=r"the folder does not exist\. Received: .*none"):
        StatesFile(tmp_path / "none", 1)
    with pytest.raises(UserError, match="MiB free, the limit is 1000000000000 MiB"):
        StatesFile(tmp_path, 10**12 * 2**20)
