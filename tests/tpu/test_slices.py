import pytest
from commands import refused

from pf_keras.tpu.slices import find_slice


@pytest.mark.parametrize(
    "name, topology, cores, hosts",
    [
        ("v2-8", "v2:2x2", 8, 1), ("v3-32", "v3:4x4", 32, 4), ("v4-8", "v4:2x2x1", 8, 1), ("v5e-4", "v5e:2x2", 4, 1),
        ("v5litepod-16", "v5e:4x4", 16, 4), ("v5p-8", "v5p:2x2x1", 4, 1), ("v6e-1", "v6e:1x1", 1, 1),
    ],
)  # fmt: skip
def test_slices_have_topology_cores_and_hosts(name, topology, cores, hosts):
    found = find_slice(name)
    assert (found.topology, found.cores, found.hosts) == (topology, cores, hosts)


@pytest.mark.parametrize("name", ["v3-31", "v3", "h100-8", "v5p-4", "v3-2"])
def test_unknown_slice_is_refused_with_the_known_ones(name, tmp_path):
    line = refused("--mode=plan", f"--topology={name}", f"--workdir={tmp_path}/plan")
    assert f"--topology={name} is not a" in line and ("v3-32" in line or "v5p-8" in line)
