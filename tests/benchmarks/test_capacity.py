"""The capacity plan, compared with plans calculated by hand."""

import json

import pytest

from benchmarks.capacity import Assumptions, main, plan, table

pytestmark = pytest.mark.fast


# A core serves 20 images/s, so a replica of 4 cores at 65 % serves 52.
@pytest.mark.parametrize(
    ("demand", "busy", "needed", "replicas", "machines", "uint8", "float32", "links"),
    [
        # 1000/52 = 19.2; 10 in each of 3 zones; a machine holds 15.
        (1_000, 50, 20, 30, 3, 1.2644352, 5.0577408, (1, 1)),
        # 100,000/52 = 1923.1; 962 in each zone; 962/15 = 64.1.
        (100_000, 5_000, 1_924, 2_886, 195, 126.44352, 505.77408, (3, 9)),
        # 1,000,000/52 = 19230.8; 9616 in each zone; 9616/15 = 641.1.
        (1_000_000, 50_000, 19_231, 28_848, 1_926, 1264.4352, 5057.7408, (22, 85)),
    ],
)
def test_plans_are_those_calculated_by_hand(
    demand, busy, needed, replicas, machines, uint8, float32, links
):
    row = plan(demand, per_core=20)
    assert row["busy_cores"] == busy
    assert row["replicas_needed"] == needed
    assert row["replicas"] == replicas
    assert row["cores"] == 4 * replicas
    assert row["machines"] == machines
    # demand x bytes x 8 bits x 1.05.
    assert row["uint8"]["gbits"] == pytest.approx(uint8, rel=1e-12)
    assert row["float32"]["gbits"] == pytest.approx(float32, rel=1e-12)
    # A link of 100 Gbit/s carries at most 60.
    assert (row["uint8"]["links"], row["float32"]["links"]) == links
    # Two of three zones carry everything; a card of 10 Gbit/s carries 6.
    per_machine = float32 / (machines * 2 / 3)
    assert row["float32"]["gbits_per_machine"] == pytest.approx(per_machine, rel=1e-12)
    assert row["float32"]["card"] == 10


def test_the_remaining_zones_serve_every_demand():
    for demand in (1, 52, 53, 104, 105, 999, 77_777):
        row = plan(demand, per_core=20)
        remaining = row["replicas"] * 2 / 3
        assert remaining * 52 >= demand
        assert row["replicas"] % 3 == 0


def test_rounding_errors_do_not_add_a_replica():
    # Exactly, 0.65 x 4 x 20 x 2 is 104.
    assert plan(104, per_core=20)["replicas_needed"] == 2
    assert plan(10.4, per_core=2)["replicas_needed"] == 2


def test_faster_cores_need_faster_cards():
    # 60 cores x 1000 x 0.65 x 602,112 bytes x 8.4 = 197 Gbit/s: above 60 of 100.
    network = plan(1_000_000, per_core=1_000)["float32"]
    assert network["card"] is None
    assert plan(1_000_000, per_core=200)["float32"]["card"] == 100


def test_other_assumptions_change_the_plan():
    assumptions = Assumptions(utilization=1.0, cores_per_replica=1, zones=2)
    row = plan(1_000, per_core=10, assumptions=assumptions)
    assert (row["replicas_needed"], row["replicas"]) == (100, 200)


def test_the_table_has_the_rows(capsys):
    rows = table(20).splitlines()
    assert rows[2].startswith("| 1,000 | 50 | 30 (10) | 120 | 3 | 1.3 / 5.1 |")
    assert len({row.count("|") for row in rows}) == 1
    main(["--images-per-second-per-core", "20"])
    printed = capsys.readouterr().out
    assert printed.startswith(table(20))
    assert "65%" in printed
    assert "602,112" in printed


def test_the_measurement_is_read_from_its_file(tmp_path, capsys):
    path = tmp_path / "serving.json"
    path.write_text(json.dumps({"images_per_second_per_core": 20}))
    main(["--json", str(path)])
    assert capsys.readouterr().out.startswith(table(20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "must have the key images_per_second_per_core"),
        ("{", "Expecting property name"),
        ('{"images_per_second_per_core": 0}', "must be above 0"),
        (None, "No such file"),
    ],
)
def test_an_invalid_measurement_is_reported(tmp_path, capsys, text, message):
    path = tmp_path / "serving.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["--json", str(path)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"utilization": 0.0}, r"Received: utilization=0\.0$"),
        ({"utilization": 1.2}, r"Received: utilization=1\.2$"),
        ({"zones": 1}, "Received: zones=1$"),
        ({"cores_per_replica": 61}, "Received: cores_per_replica=61$"),
        ({"uint8_bytes": -1}, "Received: uint8_bytes=-1$"),
    ],
)
def test_invalid_assumptions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Assumptions(**settings)


@pytest.mark.parametrize(("demand", "per_core"), [(0, 1), (1, 0), (1, float("nan"))])
def test_the_demand_and_the_measurement_must_be_positive(demand, per_core):
    with pytest.raises(ValueError, match="`demand` and `per_core` must be above 0"):
        plan(demand, per_core)
