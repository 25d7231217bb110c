"""TPU slices by the names that Google Cloud gives them, such as `v3-32` and `v5litepod-4`."""

from dataclasses import dataclass

from pf_keras.errors import UserError

GIB = 2**30
CHIPS_PER_HOST = 4  # in a slice of several hosts


@dataclass(frozen=True)
class Kind:
    """A generation of TPUs. A core is what a program runs on: half a chip in v2 to v4, a whole chip later.

    Args:
        name: of the generation.
        counted: by how much a chip counts in the name of a slice: 2 where its halves count, 1 where whole chips count.
        cores: per chip.
        hbm: bytes of memory per core that libtpu 0.0.42.1 gives a program.
        peak: bfloat16 FLOP/s per core.
        memory: bytes/s of memory per core. docs/scaling.md has the sources of all rates; None where none was found.
        link: bytes/s that a link between two chips carries in each direction, or None.
        ring: of how many chips, or a multiple, an axis must be for its ends to be joined.
        cube: whether its slices have three dimensions.
    """

    name: str
    counted: int
    cores: int
    hbm: int
    peak: float
    memory: float | None
    link: float | None
    ring: int
    cube: bool


KINDS = {
    kind.name: kind
    for kind in (
        Kind("v2", 2, 2, int(7.48 * GIB), 22.5e12, None, None, 16, cube=False),
        Kind("v3", 2, 2, int(15.48 * GIB), 61.5e12, 450e9, 83e9, 32, cube=False),
        Kind("v4", 2, 2, int(15.25 * GIB), 137.5e12, 600e9, 45e9, 4, cube=True),
        Kind("v5e", 1, 1, int(15.75 * GIB), 197e12, 819e9, 50e9, 16, cube=False),
        Kind("v5p", 2, 1, int(95.74 * GIB), 459e12, 2765e9, 100e9, 4, cube=True),
        Kind("v6e", 1, 1, int(31.25 * GIB), 918e12, 1600e9, 100e9, 16, cube=False),
    )
}
OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e"}
SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}


@dataclass(frozen=True)
class Slice:
    """A number of chips of one kind."""

    name: str
    kind: Kind
    chips: int

    @property
    def topology(self) -> str:
        """libtpu's name of the slice, such as `v3:4x4`."""
        return f"{self.kind.name}:{self._shape}"

    @property
    def _shape(self) -> str:
        return (CUBES if self.kind.cube else SQUARES)[self.chips]

    @property
    def network(self) -> float | None:
        """Bytes/s that a chip sends in an all-reduce, or None. It uses both directions of an axis whose ends are joined, and
        one of another. In three dimensions all axes are joined or none."""
        if self.kind.link is None:
            return None
        axes = [int(length) for length in self._shape.split("x") if int(length) > 1]
        joined = [length % self.kind.ring == 0 for length in axes]
        if self.kind.cube:
            joined = [all(joined)] * len(axes)
        return self.kind.link * sum(2 if both else 1 for both in joined)

    @property
    def cores(self) -> int:
        """On all chips together."""
        return self.chips * self.kind.cores

    @property
    def hosts(self) -> int:
        """The machines that feed the slice. A v5e or v6e slice of up to 8 chips has one."""
        if self.kind.counted == 1 and self.chips <= 8:
            return 1
        return max(1, self.chips // CHIPS_PER_HOST)


def find_slice(name: str) -> Slice:
    """The slice of a name. Raises UserError for a kind or a size that is not in this module."""
    family, _, number = name.lower().partition("-")
    kind = KINDS.get(OTHER_NAMES.get(family, family))
    if kind is None or not number.isdecimal():
        known = ", ".join(f"{k}-N" for k in KINDS)
        raise UserError(f"--topology={name} is not a TPU slice. Use one of {known}, such as v3-32, the paper's.")
    # v2 and v3 come in slices of four chips or more, v5e and v6e also as single chips.
    chips = [chips for chips in (CUBES if kind.cube else SQUARES) if chips >= 4 or kind.counted == 1]
    if int(number) not in [n * kind.counted for n in chips]:
        known = ", ".join(f"{family}-{n * kind.counted}" for n in chips)
        raise UserError(f"--topology={name} is not a known size of a slice. Use one of {known}.")
    return Slice(name.lower(), kind, int(number) // kind.counted)
