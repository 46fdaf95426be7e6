"""How long an evaluation takes, at the size of the full LM-O test set.

    BOP_PATH=... python benchmarks/evaluate.py [--targets 1445]

The annotated images of LM-O that are there are listed again and again under new numbers, until there are as many
targets as asked for; the results are the true poses, perturbed by up to 20 degrees and 40 mm, and a second row of a
lower score for every fourth. Scores are all that `cad2pose evaluate` computes without depth images; trust is the
bootstrap of every figure and of every group with 1000 draws, and the calibration. The last line is one JSON object;
exit status 1 where scores and trust take longer than the limit.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.results import Results, read_results_csv, write_results_csv
from cad2pose.evaluation import evaluate
from cad2pose.evaluation.trust import trust
from cad2pose.geometry import make_transform, nearest_rotation, rotation_from_axis_angle


@dataclass(frozen=True)
class Config:
    """Size and limit."""

    targets: int = 1445
    """Targets to score; LM-O's test set has 1445."""

    limit: float = 20.0
    """Seconds that reading, scores and trust may take together."""

    bop: Path = Path("lmo")
    """Data set whose annotations are repeated: folder, or name in BOP_PATH."""


def repeated(source: BopDataset, root: Path, count: int) -> BopDataset:
    """The data set with its images repeated under new numbers, without any pixels."""
    (root / "test").mkdir()
    for name in ("models_eval", "camera.json"):
        (root / name).symlink_to((source.root / name).resolve())
    targets: list[dict[str, int]] = []
    files: dict[str, dict[str, object]] = {"scene_gt": {}, "scene_gt_info": {}, "scene_camera": {}}
    scene_id, scene = next(iter(source.scenes.items()))
    wanted = [t for t in source.targets() if t.scene_id == scene_id]
    tables = {"scene_gt": scene.annotations, "scene_gt_info": scene.infos or {}, "scene_camera": scene.camera_entries}
    turn = 0
    while len(targets) < count:
        for target in wanted[: count - len(targets)]:
            image = target.image_id + 10_000 * turn
            entry = {"scene_id": scene_id, "im_id": image, "obj_id": target.object_id, "inst_count": 1}
            targets.append(entry)
            for name, table in tables.items():
                files[name][str(image)] = table[target.image_id]
        turn += 1
    folder = root / "test" / f"{scene_id:06d}"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (root / "test_targets_bop19.json").write_text(json.dumps(targets))
    return BopDataset(root)


def perturbed(dataset: BopDataset, generator: torch.Generator) -> Results:
    """The true poses, moved; every fourth twice."""
    rows = []
    for place, target in enumerate(dataset.targets()):
        instances = dataset.scene(target.scene_id).instances(target.image_id)
        truth = next(i for i in instances if i.object_id == target.object_id).T_cam_obj
        for copy in range(2 if place % 4 == 0 else 1):
            size = torch.rand(1, generator=generator, dtype=torch.float64)
            axis = torch.nn.functional.normalize(torch.randn(3, generator=generator, dtype=torch.float64), dim=0)
            R = nearest_rotation(rotation_from_axis_angle(axis * torch.deg2rad(20 * size)) @ truth[:3, :3])
            t = truth[:3, 3] + 40 * size * torch.randn(3, generator=generator, dtype=torch.float64) / 3**0.5
            score = float((1 - size) * (0.5 if copy else 1))
            rows.append((target, score, make_transform(R, t)))
    return Results(
        torch.tensor([t.scene_id for t, _, _ in rows]),
        torch.tensor([t.image_id for t, _, _ in rows]),
        torch.tensor([t.object_id for t, _, _ in rows]),
        torch.tensor([score for _, score, _ in rows], dtype=torch.float64),
        torch.stack([pose for _, _, pose in rows]),
        torch.full((len(rows),), 0.5, dtype=torch.float64),
    )


def main(config: Config) -> int:
    """Measure, print one JSON line."""
    source = BopDataset(find_dataset(config.bop))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = repeated(source, root, config.targets)
        write_results_csv(root / "results.csv", perturbed(made, torch.Generator().manual_seed(0)))
        dataset = BopDataset(root)  # nothing read yet
        begun, processor = time.monotonic(), time.process_time()
        results = read_results_csv(root / "results.csv")
        scores = evaluate(results, dataset)
        scored = time.monotonic()
        found = trust(scores)
        ended = time.monotonic()
        report = {
            "targets": scores.total.targets, "rows": len(results), "images": len(scores.table.images),
            "seconds": round(ended - begun, 2), "seconds_scores": round(scored - begun, 2),
            "seconds_trust": round(ended - scored, 2), "processor_seconds": round(time.process_time() - processor, 2),
            "limit": config.limit, "threads": torch.get_num_threads(), "processors": os.cpu_count(),
            "AR_MSSD": scores.total.AR_MSSD, "AR_MSPD": scores.total.AR_MSPD, "AP": found.figures.values["AP"],
        }  # fmt: skip
        print(json.dumps(report))
    return int(report["seconds"] > config.limit)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Config)))
