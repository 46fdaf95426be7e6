"""`cad2pose report`: a page about results files, or about a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cad2pose.cli.arguments import ObjectIds, OptionalPath
from cad2pose.cli.console import plain_console
from cad2pose.cli.symmetry_remark import UNDECLARED, symmetry_remarks
from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.evaluation.headline import DRAWS
from cad2pose.evaluation.scored_file import Question, distinct_names, score_file
from cad2pose.evaluation.scores import ScoringOptions
from cad2pose.files import check_file, write_text
from cad2pose.report.score_page import CASES, score_page
from cad2pose.report.training_page import PAGE, training_page

_PAGE = Path("report.html")


@dataclass(frozen=True)
class Scoring:
    """What a page about results files is made of.

    Args:
        bop: folder of the BOP dataset that the results are for, or the name of one in BOP_PATH.
        split: the split that the results are for.
        targets: targets file in place of the dataset's own (SPLIT_targets_bop19.json).
        objects: score these objects only.
        cases: pictures of each kind and file.
        draws: of images, for the intervals and tests.
        seed: of the draws.
        visibility: what a pixel without depth means to VSD: visible (bop19), or not (bop18).
        as_written: score rotations that are orthonormal only to 1 % as they are, as BOP does, and not the nearest ones.
        check_symmetries: look for symmetries of parts that models_info.json declares without any (some seconds).
    """

    bop: OptionalPath = None
    split: str = "test"
    targets: OptionalPath = None
    objects: ObjectIds = ()
    cases: int = CASES
    draws: int = DRAWS
    seed: int = 0
    visibility: Literal["bop19", "bop18"] = "bop19"
    as_written: bool = False
    check_symmetries: bool = True

    def given(self) -> list[str]:
        """The options that are not as they are by default, as one writes them."""
        plain = Scoring()
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        return [f"--{'no-' if getattr(plain, name) is True else ''}{name.replace('_', '-')}" for name in changed]

    def page(self, files: Sequence[Path]) -> str:
        """The page about these results files, with what is to be warned of printed."""
        if self.bop is None:
            raise ValueError(
                "results files need --bop: the folder of the BOP data set they are for, or its name in BOP_PATH"
            )
        question = Question.ask(BopDataset(find_dataset(self.bop), self.split), self.targets, self.objects)
        options = ScoringOptions(visibility=self.visibility)
        scored = [
            score_file(path, name, question, options, self.as_written, self.draws, self.seed)
            for path, name in zip(files, distinct_names(files), strict=True)
        ]
        remarks = symmetry_remarks(question.parts, UNDECLARED) if self.check_symmetries else []
        for text in (*(f"{file.name}: {text}" for file in scored for text in file.warnings), *remarks):
            plain_console(stderr=True).print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)
        return score_page(scored, question, remarks, self.cases)


_SCORING = Scoring()


def report_command(
    source: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RESULTS.csv [OTHERS.csv ...] | RUN", help_behavior_hint=""),
    ],
    /,
    out: OptionalPath = None,
    scoring: Annotated[Scoring, tyro.conf.arg(name="")] = _SCORING,
) -> None:
    """Write one page that opens in any browser, without a network.

    About results files: all that `cad2pose evaluate` says, with plots, pictures of the worst and the median cases with
    the outlines of truth and estimate, and any two files side by side. About the folder of a training run: its curves,
    settings and pictures; training writes that page, too.

    Args:
        source: csv files with the columns scene_id,im_id,obj_id,score,R,t,time; or one folder of a training run.
        out: the page; report.html here, or in the run folder.
        scoring: how results files are scored.
    """
    if not source:
        raise ValueError("nothing was given to report on; give results files (csv), or the folder of a training run")
    if len(source) == 1 and source[0].is_dir():
        if given := scoring.given():
            raise ValueError(
                f"{source[0]} is a folder, so this is about a training run, which needs no {', '.join(given)}; leave "
                "that out"
            )
        return _write(out or source[0] / PAGE, training_page(source[0]))
    if folders := [str(path) for path in source if path.is_dir()]:
        raise ValueError(f"{', '.join(folders)}: give either one folder of a training run, or results files (csv)")
    check_file(out or _PAGE)  # before anything takes time
    return _write(out or _PAGE, scoring.page(source))


def _write(out: Path, page: str) -> None:
    write_text(out, page)
    plain_console().print(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)", soft_wrap=True, highlight=False)
