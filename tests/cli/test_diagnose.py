"""The command `diagnose`."""

import json

from command_line_calls import error_line, run


def test_diagnose_prints_a_report_and_writes_files(capsys, trained, tmp_path):
    status, out, _ = run(
        capsys, "diagnose", trained, "--data", "digits", "--steps", 5,
        "--json", tmp_path / "d.json", "--plot", tmp_path / "d.svg",
    )  # fmt: skip
    assert status == 0
    written = json.loads((tmp_path / "d.json").read_text())
    for layer in written["layers"]:
        assert layer["layer"] in out
        assert layer["values"] >= 32
    assert written["outcomes"]["stored"]["accuracy"] > 0.3
    assert "<svg" in (tmp_path / "d.svg").read_text()


def test_a_picture_of_another_kind_is_an_error(capsys, trained, tmp_path):
    arguments = ("--data", "digits", "--plot", tmp_path / "d.txt")
    error = error_line(capsys, "diagnose", trained, *arguments)
    assert "--plot must be a file named .png, .svg, .pdf" in error
