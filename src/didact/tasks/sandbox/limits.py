"""Resource limits of one program. Imports nothing heavy, because it is also imported inside the sandbox."""

from __future__ import annotations

MIB = 1 << 20


class Limits:
    """Resource limits of one program, from loading it to its last answer.

    Memory and CPU time are limits of each process, as Linux enforces them: together the processes may use
    `processes` times as much, within the wall time.

    Args:
        cpu_s: CPU time in whole seconds, ≥ 1, which does not depend on the load of the machine.
        wall_s: Wall-clock time in seconds, > 0, for a program that sleeps.
        memory_mb: Address space in MiB, ≥ 64.
        processes: Processes and threads at once, the first one included, ≥ 1.
        disk_mb: Size in MiB of the only writable folder, and of any one file in it.
        output_kb: KiB that may be printed, and KiB of one returned value.

    Raises:
        ValueError: a limit out of range.
    """

    __slots__ = ("cpu_s", "disk_mb", "memory_mb", "output_kb", "processes", "wall_s")

    def __init__(
        self,
        *,
        cpu_s: int = 2,
        wall_s: float = 10.0,
        memory_mb: int = 256,
        processes: int = 8,
        disk_mb: int = 16,
        output_kb: int = 256,
    ) -> None:
        floors = {"cpu_s": 1, "memory_mb": 64, "processes": 1, "disk_mb": 1, "output_kb": 1}
        self.cpu_s, self.memory_mb, self.processes = cpu_s, memory_mb, processes
        self.disk_mb, self.output_kb, self.wall_s = disk_mb, output_kb, wall_s
        for name, floor in floors.items():
            if getattr(self, name) < floor:
                raise ValueError(f"{name} must be at least {floor}, not {getattr(self, name)}")
        if not 0 < wall_s < float("inf"):
            raise ValueError(f"wall_s must be a finite number above 0, not {wall_s}")

    def words(self) -> list[str]:
        """The limits as command-line arguments; `from_words` parses them."""
        return [str(getattr(self, name)) for name in sorted(self.__slots__)]

    @classmethod
    def from_words(cls, words: list[str]) -> Limits:
        """The limits that `words` wrote."""
        values = dict(zip(sorted(cls.__slots__), words, strict=True))
        wall_s = float(values.pop("wall_s"))
        return cls(wall_s=wall_s, **{name: int(value) for name, value in values.items()})
