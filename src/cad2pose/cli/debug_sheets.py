"""Sheets with all that the network said of every box, for `cad2pose estimate --debug-pictures`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from cad2pose.data.image_tasks import ImageTask
from cad2pose.estimator import PoseEstimator, inspect_estimates, query_image_method, surface_keys_of
from cad2pose.pictures import EmbeddingPalette, debug_sheet, embedding_colours, save_png
from cad2pose.structures import PoseEstimates


class DebugSheets:
    """Draws and saves them, each object in colours of its own that never change.

    Args:
        estimator: that made the estimates.
        folder: where the sheets go.
        object_ids: whose sheets will be asked for.

    Raises:
        ValueError: for an object whose model has no query image.
    """

    def __init__(self, estimator: PoseEstimator, folder: Path, object_ids: Sequence[int]) -> None:
        for object_id in object_ids:
            query_image_method(estimator, object_id)
        self._estimator, self._folder = estimator, folder
        self._palettes: dict[int, EmbeddingPalette] = {}

    def save(self, task: ImageTask, image: Float[Tensor, "3 h w"], estimates: PoseEstimates) -> None:
        """One sheet per row of the estimates, NAME_ROW_PART.png."""
        for row, seen in enumerate(inspect_estimates(self._estimator, image, task.camera, estimates)):
            sheet = debug_sheet(
                seen.crop, seen.queries, seen.mask, seen.part, self._palette(int(estimates.object_id[row])),
                seen.T_virt_obj, seen.K_virt, seen.scores,
            )  # fmt: skip
            save_png(self._folder / f"{task.name}_{row:02d}_{seen.part.name}.png", sheet)

    def _palette(self, object_id: int) -> EmbeddingPalette:
        if object_id not in self._palettes:
            self._palettes[object_id] = embedding_colours(*surface_keys_of(self._estimator, object_id))
        return self._palettes[object_id]
