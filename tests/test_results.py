from __future__ import annotations

import pytest
import torch

from cad2pose.data.results import Results, read_results_csv, write_results_csv
from cad2pose.geometry import make_transform, random_rotations
from cad2pose.structures import PoseEstimates

HEADER = "scene_id,im_id,obj_id,score,R,t,time"
GOOD = "1,3,2,0.5,1 0 0 0 1 0 0 0 1,10 -20.5 900,0.25"


def random_estimates(count: int, seconds: float) -> PoseEstimates:
    R = random_rotations(count, dtype=torch.float64)
    T = make_transform(R, 1000 * torch.randn(count, 3, dtype=torch.float64))
    return PoseEstimates(torch.arange(count) + 1, T, torch.rand(count), torch.ones(count, 4), seconds)


def test_written_results_read_back_to_the_digit(tmp_path):
    estimates = {
        (1, 3): random_estimates(3, 0.125),
        (2, 7): random_estimates(0, -1.0),
        (2, 8): random_estimates(2, -1.0),
    }
    results = Results.from_estimates(estimates)
    assert results.image_id.tolist() == [3, 3, 3, 8, 8]
    write_results_csv(tmp_path / "a-b_lmo-test.csv", results)
    again = read_results_csv(tmp_path / "a-b_lmo-test.csv")
    for name, value in vars(results).items():
        assert torch.equal(getattr(again, name), value), name
    assert (tmp_path / "a-b_lmo-test.csv").read_text().splitlines()[0] == HEADER
    write_results_csv(tmp_path / "none.csv", Results.from_estimates({}))
    assert len(read_results_csv(tmp_path / "none.csv")) == 0


def test_header_and_empty_lines_are_optional(tmp_path):
    for text in (GOOD, f"{HEADER}\n{GOOD}\n", f"\ufeff{HEADER}\r\n\r\n{GOOD}\r\n\n"):
        (tmp_path / "r.csv").write_text(text, encoding="utf-8", newline="")
        results = read_results_csv(tmp_path / "r.csv")
        assert results.T_cam_obj[0, :3, 3].tolist() == [10, -20.5, 900]
        assert (results.object_id.tolist(), results.seconds.tolist()) == ([2], [0.25])


def test_rotations_are_kept_as_written(tmp_path):
    (tmp_path / "r.csv").write_text(GOOD.replace("1 0 0 0 1 0 0 0 1", "1.004 0 0 0 1 0 0 0 1"))
    assert float(read_results_csv(tmp_path / "r.csv").T_cam_obj[0, 0, 0]) == 1.004


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,3,2,0.5,1 0 0 0 1 0 0 0 1,10 20 900", "has 6 columns, not 7"),
        (GOOD + ",7", "has 8 columns, not 7"),
        (GOOD.replace(",0.5", ",high"), "score holds 'high', not a number"),
        (GOOD.replace(",0.5", ",nan"), "score holds 'nan', not a finite number"),
        (GOOD.replace("900", "inf"), "t holds 'inf', not a finite number"),
        (GOOD.replace("1,3,2", "1,3.5,2"), "im_id is '3.5', not a whole number"),
        (GOOD.replace(" 900", ""), "R has 9 numbers and t has 2"),
        (GOOD.replace("1 0 0 0 1 0 0 0 1", "1 0 0 0 1 0 0 0"), "R has 8 numbers"),
        (GOOD.replace("1 0 0 0 1 0 0 0 1", "2 0 0 0 1 0 0 0 1"), "R is not a rotation: .* by 3"),
        (GOOD.replace("1 0 0 0 1 0 0 0 1", "-1 0 0 0 1 0 0 0 1"), "mirror image"),
        (GOOD.replace("0 0 0 1,10", "0;0;0;1,10"), "R holds"),
    ],
)
def test_bad_rows_are_named_with_their_line(tmp_path, row, message):
    (tmp_path / "r.csv").write_text(f"{HEADER}\n{GOOD}\n{row}\n{GOOD}\n")
    with pytest.raises(ValueError, match=r"r\.csv has bad rows: line 3: .*" + message):
        read_results_csv(tmp_path / "r.csv")


def test_large_numbers_are_kept_to_the_digit(tmp_path):
    row = "0,{},3,0.5,1 0 0 0 1 0 0 0 1,0 0 500,-1\n"
    (tmp_path / "r.csv").write_text(row.format(1710159045123456789))  # nanoseconds
    assert read_results_csv(tmp_path / "r.csv").image_id.tolist() == [1710159045123456789]
    for number in ("20240311123045123456", "9" * 400):
        (tmp_path / "r.csv").write_text(row.format(number))
        with pytest.raises(ValueError, match="line 1: im_id is .* 64 bits do not hold"):
            read_results_csv(tmp_path / "r.csv")


def test_all_bad_rows_are_named_but_not_endlessly(tmp_path):
    (tmp_path / "r.csv").write_text("\n".join([HEADER, *["1,2,3"] * 30]))
    with pytest.raises(ValueError, match=r"line 2: .*line 11: .*and 20 more lines"):
        read_results_csv(tmp_path / "r.csv")


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_results_csv(tmp_path / "absent.csv")
    (tmp_path / "r.csv").write_text(f"im_id,scene_id,obj_id,score,R,t,time\n{GOOD}\n")
    with pytest.raises(ValueError, match="line 1: the columns are im_id,scene_id"):
        read_results_csv(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_results_csv(tmp_path / "r.csv")


def test_nothing_is_half_written(tmp_path):
    results = Results.from_estimates({(1, 1): random_estimates(2, 1.0)})
    results.T_cam_obj[1, 0, 3] = float("nan")
    (tmp_path / "r.csv").write_text("old")
    with pytest.raises(ValueError, match="not finite"):
        write_results_csv(tmp_path / "r.csv", results)
    assert (tmp_path / "r.csv").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.csv"]
