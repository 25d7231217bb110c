"""Hostile and damaged archives: nothing outside the output is touched, every problem is named, reading ends."""

import io
import os
import tarfile

import pytest

from pf_keras.errors import UserError
from tfrecords import archive


def hostile_tar(helpers, tmp_path):
    out = io.BytesIO()
    good = helpers.image("good")
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name, data=b"", **fields):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        add("ILSVRC2012_val_00000001.JPEG", good)
        add(f"{tmp_path}/absolute.JPEG", good)
        add("../../escape.JPEG", good)
        add("a/../../escape.JPEG", good)
        add("link.JPEG", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("hard.JPEG", type=tarfile.LNKTYPE, linkname="ILSVRC2012_val_00000001.JPEG")
        add("fifo.JPEG", type=tarfile.FIFOTYPE)
        add("device.JPEG", type=tarfile.CHRTYPE)
        add("new\nline.JPEG", good)
        add("x" * 2000 + ".JPEG", good)
        add("folder", type=tarfile.DIRTYPE)
        add("ILSVRC2012_val_00000001.JPEG", good)
    return out.getvalue()


def test_hostile_members_are_named_and_not_followed(helpers, tmp_path):
    helpers.write(tmp_path / "in/ILSVRC2012_img_val.tar", hostile_tar(helpers, tmp_path))
    helpers.write(tmp_path / "in/imagenet_2012_validation_synset_labels.txt", b"n01440764\n")
    before = helpers.hashes(tmp_path)
    arguments = ("--source=imagenet", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
    arguments += ("--validation_shards=1", "--processes=1")
    done = helpers.command("build", *arguments)
    helpers.fails(done, "10 files are corrupt or not images", "it is a link", "leads out of the archive")
    done = helpers.command("build", *arguments, "--skip_bad")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "bad.txt").read_bytes().decode().rstrip("\n").split("\n")
    reasons = [line.rpartition("\t")[2] for line in lines if "\t" in line]
    assert sum("leads out" in reason for reason in reasons) == 3
    assert sum("link" in reason for reason in reasons) == 2
    assert sum("regular" in reason for reason in reasons) == 2
    assert sum("second file" in reason for reason in reasons) == 1
    assert len(helpers.records(tmp_path / "out", "validation")) == 1
    after = {name: digest for name, digest in helpers.hashes(tmp_path).items() if not name.startswith("out/")}
    assert after == before
    assert not (tmp_path.parent / "escape.JPEG").exists()


def scan(data):
    return list(archive.members(io.BytesIO(data), 0, len(data), "some.tar"))


def test_offsets_point_to_the_bytes_of_the_members(helpers):
    files = {f"{i}.JPEG": os.urandom(i * 300) for i in range(5)}
    files["long" * 60 + ".JPEG"] = b"long"
    data = helpers.tar(files)
    assert {m.name: data[m.offset : m.offset + m.size] for m in scan(data)} == files


@pytest.mark.parametrize("keep", [0, 511, 700, 2000, 512 + 1024, 2 * (512 + 1024), 2 * (512 + 1024) + 512])
def test_truncated_archive_is_an_error(helpers, keep):
    data = helpers.tar({"1.JPEG": bytes(1024), "2.JPEG": bytes(1024)})[:keep]
    with pytest.raises(UserError, match="some.tar is .*(cut short|uncompressed tar)"):
        scan(data)


def test_damaged_header_or_bytes_behind_the_end_are_an_error(helpers):
    data = bytearray(helpers.tar({f"{i}.JPEG": bytes(1024) for i in range(3)}))
    with pytest.raises(UserError, match="should end with an end mark"):
        scan(bytes(data) + helpers.tar({"more.JPEG": bytes(10)}))
    data[1536 + 3] ^= 1  # in the second member's name
    with pytest.raises(UserError, match="end mark at byte 1536"):
        scan(bytes(data))
    assert scan(helpers.tar({})) == []


def number_field(value):
    """A negative size in the base-256 form of GNU tar."""
    return (value & (1 << 96) - 1).to_bytes(12, "big")


@pytest.mark.parametrize("size", [-512, -1024, -(1 << 40)])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_negative_sizes_do_not_loop_forever(size, kind):
    info = tarfile.TarInfo("a.JPEG")
    header = bytearray(info.tobuf())
    header[124:136] = number_field(size)
    header[156:157] = kind
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(UserError):
        scan(bytes(header) * 3 + bytes(1024))


def test_huge_extended_header_is_not_read():
    info = tarfile.TarInfo("pax")
    info.size, info.type = 64 << 20, tarfile.XHDTYPE
    with pytest.raises(UserError, match="a header of"):
        scan(info.tobuf() + bytes(64 << 20))


def test_compressed_tar_or_another_file_is_an_error():
    for data in (b"\x1f\x8b" + bytes(600), b"<html>" * 200):
        with pytest.raises(UserError, match="uncompressed tar"):
            scan(data)
