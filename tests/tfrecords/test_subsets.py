"""The command that writes label lists."""

import pytest


@pytest.fixture(scope="module")
def labelled(helpers, tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    for label in ("cat", "dog"):
        for i in range(30):
            helpers.write(root / "in" / "train" / label / f"{label}{i}.jpg", helpers.image(f"{label}{i}", size=(9, 9)))
    arguments = ("--source=folder", f"--input={root / 'in'}", "--train_shards=3")
    helpers.build(*arguments, f"--output={root / 'out'}")
    return root / "out"


def test_lists_are_nested_and_contain_the_published_list(helpers, labelled, tmp_path):
    published = helpers.write(tmp_path / "published.txt", b"dog/dog1.jpg\ntrain/dog/dog2.jpg\ncat7.jpg\n")
    arguments = ("--fraction=0.1,0.2", "--seed=4", f"--output={tmp_path}")
    done = helpers.command("subsets", labelled, *arguments)
    assert done.returncode == 0, done.stderr
    ten = (tmp_path / "train_10pct_seed4.txt").read_text().splitlines()
    twenty = (tmp_path / "train_20pct_seed4.txt").read_text().splitlines()
    assert (len(ten), len(twenty)) == (6, 12) and set(ten) < set(twenty)
    assert sum(name.startswith("cat/") for name in ten) == 3
    done = helpers.command("subsets", labelled, *arguments, f"--include={published}")
    assert "12 of 60 images, 3 of the 3 in" in done.stdout
    with_list = (tmp_path / "train_20pct_seed4_with_list.txt").read_text().splitlines()
    assert {"dog/dog1.jpg", "dog/dog2.jpg", "cat/cat7.jpg"} < set(with_list) and len(with_list) == 12


def test_small_fraction_keeps_one_image_of_each_class(helpers, labelled, tmp_path):
    done = helpers.command("subsets", labelled, "--fraction=0.001", f"--output={tmp_path}")
    assert done.returncode == 0 and "2 of 60 images" in done.stdout and "one image of each is kept" in done.stderr
    names = (tmp_path / "train_0.1pct_seed0.txt").read_text().splitlines()
    assert [name.split("/")[0] for name in names] == ["cat", "dog"]


def test_wrong_fractions_lists_and_directories_are_an_error(helpers, labelled, tmp_path):
    helpers.fails(helpers.command("subsets", labelled, "--fraction=0"), "label fraction is 0")
    helpers.fails(helpers.command("subsets", labelled, "--fraction=ten"), "'ten'")
    wrong = helpers.write(tmp_path / "wrong.txt", b"n.jpg\nm.jpg\n")
    done = helpers.command("subsets", labelled, "--fraction=0.1", f"--include={wrong}")
    helpers.fails(done, "2 of 2 listed names are not in the data", "'n.jpg'")
    helpers.fails(helpers.command("subsets", tmp_path, "--fraction=0.1"), "has no TFRecord shards")
