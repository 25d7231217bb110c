"""The benchmark of conversion speed."""

import json


def test_benchmark_reports_each_number_of_files(helpers, tmp_path):
    done = helpers.command("benchmark", "--files=20,40", "--kilobytes=20", "--processes=2", f"--directory={tmp_path}")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert [result["files"] for result in report["results"]] == [20, 40]
    for result in report["results"]:
        assert abs(result["ratio"] - result["copy_s"] / result["convert_s"]) < 0.02
        assert result["peak_mib"] > 5
    assert list(tmp_path.iterdir()) == []
    helpers.fails(helpers.command("benchmark", "--files=many"), "'many'")
