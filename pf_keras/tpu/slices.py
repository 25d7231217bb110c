"""TPU slices by the names that Google Cloud gives them: `v3-32`, `v5litepod-4`."""

from dataclasses import dataclass

from pf_keras.errors import UserError

GIB = 2**30
CHIPS_PER_HOST = 4  # in a slice of several hosts


@dataclass(frozen=True)
class Kind:
    """A generation of TPU. A core is what a program runs on: half a chip in v2 to v4, a whole one later.

    counted: what the number in a slice's name counts a chip (2: its halves, 1: itself); cores: a chip;
    hbm: bytes a core that libtpu 0.0.42.1 grants a program; peak: bfloat16 FLOP/s a core; cube: whether slices have
    three dimensions.
    """

    name: str
    counted: int
    cores: int
    hbm: int
    peak: float
    cube: bool


KINDS = {
    kind.name: kind
    for kind in (
        Kind("v2", 2, 2, int(7.48 * GIB), 22.5e12, cube=False),
        Kind("v3", 2, 2, int(15.48 * GIB), 61.5e12, cube=False),
        Kind("v4", 2, 2, int(15.25 * GIB), 137.5e12, cube=True),
        Kind("v5e", 1, 1, int(15.75 * GIB), 197e12, cube=False),
        Kind("v5p", 2, 1, int(95.74 * GIB), 459e12, cube=True),
        Kind("v6e", 1, 1, int(31.25 * GIB), 918e12, cube=False),
    )
}
OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e"}
SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}


@dataclass(frozen=True)
class Slice:
    """A number of chips of a kind. `topology` is libtpu's name for it."""

    name: str
    kind: Kind
    chips: int

    @property
    def topology(self):
        return f"{self.kind.name}:{(CUBES if self.kind.cube else SQUARES)[self.chips]}"

    @property
    def cores(self):
        return self.chips * self.kind.cores

    @property
    def hosts(self):
        """Machines that feed it. A v5e or v6e of up to 8 chips has one."""
        if self.kind.counted == 1 and self.chips <= 8:
            return 1
        return max(1, self.chips // CHIPS_PER_HOST)


def find_slice(name):
    """The `Slice` of a name. Raises UserError for one that is none of those above."""
    family, _, number = name.lower().partition("-")
    kind = KINDS.get(OTHER_NAMES.get(family, family))
    if kind is None or not number.isdecimal():
        known = ", ".join(f"{k}-N" for k in KINDS)
        raise UserError(f"expected --topology to be one of {known}, received {name!r}: the paper's is v3-32")
    # v2 and v3 come by four chips at least, v5e and v6e by single ones.
    chips = [chips for chips in (CUBES if kind.cube else SQUARES) if chips >= 4 or kind.counted == 1]
    if int(number) not in [n * kind.counted for n in chips]:
        known = ", ".join(f"{family}-{n * kind.counted}" for n in chips)
        raise UserError(f"expected --topology to be a slice that is known here ({known}), received {name}: choose one")
    return Slice(name.lower(), kind, int(number) // kind.counted)
