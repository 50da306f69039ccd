"""What every reader of GPUs must do, whatever they are."""

from __future__ import annotations

from abc import ABC, abstractmethod

from nebula_core.interfaces import Devices


class DevicesContract(ABC):
    """Inherit it in a test class and make the devices under test, on a machine that has such GPUs, real or not."""

    @abstractmethod
    def make_devices(self) -> Devices:
        """A fresh reader with its default settings, which finds at least one GPU."""

    def test_every_gpu_has_an_index_of_its_own(self) -> None:
        """Plans name GPUs by it."""
        indexes = [gpu.index for gpu in self.make_devices().read()]
        assert indexes
        assert indexes == sorted(set(indexes))

    def test_numbers_are_in_their_units(self) -> None:
        """Or unknown."""
        for gpu in self.make_devices().read():
            assert gpu.utilization is None or 0 <= gpu.utilization <= 1
            assert gpu.memory_used_bytes is None or 0 <= gpu.memory_used_bytes <= (gpu.memory_total_bytes or 0)
            assert gpu.temperature_celsius is None or -50 < gpu.temperature_celsius < 200
            assert gpu.power_watts is None or 0 <= gpu.power_watts < 10_000

    def test_a_gpu_keeps_its_identity(self) -> None:
        """From one reading to the next, and for a daemon that is started again."""
        devices = self.make_devices()
        first, second, other = devices.read(), devices.read(), self.make_devices().read()
        names = [[(gpu.index, gpu.uuid, gpu.name) for gpu in gpus] for gpus in (first, second, other)]
        assert names[0] == names[1] == names[2]

    def test_engines_are_kept_apart(self) -> None:
        """Two with different GPUs get different environments."""
        devices = self.make_devices()
        gpus = devices.read()
        environments = [devices.environment([gpu]) for gpu in gpus]
        assert all(isinstance(part, str) for each in environments for pair in each.items() for part in pair)
        assert len({tuple(sorted(each.items())) for each in environments}) == len(gpus)
