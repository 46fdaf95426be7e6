"""One look at a batch of crops: the network's output, and the poses that are read off it or solved for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.confidence import Way
from cad2pose.estimator.options import EstimatorOptions
from cad2pose.estimator.pose_solver import PoseSolver
from cad2pose.estimator.stages import Stages
from cad2pose.geometry import VirtualCamera, make_transform, nearest_rotation
from cad2pose.methods import PoseMethod, QueryImageMethod, RegressionMethod, SurfEmbMethod
from cad2pose.model_file import Model
from cad2pose.solvers import robust_pnp
from cad2pose.structures import CropBatch, PoseDetails, Poses


class Look:
    """Poses of crops, as the options want them.

    Args:
        options: of the estimator.
    """

    def __init__(self, options: EstimatorOptions) -> None:
        self.options = options
        refinement = options.refinement
        self._refiner = PoseSolver(refinement, "regression")
        self._solver = PoseSolver(refinement, "search" if options.solver == "search" else "sampling")

    def check(self, model: Model) -> None:
        """Raise ValueError for a model that has no poses in the way that the options ask for."""
        names, method = ", ".join(part.name for part in model.parts), type(model.method).__name__
        regresses, solves = isinstance(model.method, PoseMethod), isinstance(model.method, QueryImageMethod)
        if not regresses and self.options.solver == "regression":
            raise ValueError(
                f"the model of {names} is a {method}, which regresses no poses; solve for them (solver sampling or "
                "search), or train a query model for these parts (--method query)"
            )
        if self.options.query_turns > 1 and not isinstance(model.method, SurfEmbMethod):
            raise ValueError(
                f"query_turns is {self.options.query_turns}, which is about SurfEmb's models; that of {names} is a "
                f"{method}, which rolls make steadier"
            )
        if not regresses and not solves:
            raise ValueError(f"the model of {names} is a {method}, which gives no poses")
        if self.options.solver == "pnp":
            if not isinstance(model.method, RegressionMethod) or not model.method.regresses_coordinates:
                raise ValueError(
                    f"the model of {names} is a {method} that regresses no coordinates, which PnP needs; train one "
                    "that does (--method gdrnet)"
                )
            return
        if not solves and self.options.solver in ("sampling", "search"):
            raise ValueError(f"the model of {names} is a {method}, which has no query image to solve for poses with")

    def way(self, model: Model) -> Way:
        """How a model that passed `check` comes to its poses."""
        solver, method = self.options.solver, model.method
        if solver in ("sampling", "search", "pnp"):
            return solver
        if not isinstance(method, PoseMethod):
            return "sampling"
        return "refined" if self.options.refine and isinstance(method, QueryImageMethod) else "regression"

    def prepare(self, model: Model, index: int) -> None:
        """Do now what takes long at the first look for one of a model's parts."""
        solvers = {"sampling": self._solver, "search": self._solver, "refined": self._refiner}
        if (solver := solvers.get(self.way(model))) is not None:
            solver.prepare(model, index)

    def __call__(
        self,
        model: Model,
        batch: CropBatch,
        depth: Float[Tensor, "b r r"] | None = None,
        stages: Stages | None = None,
    ) -> Poses:
        """Poses T_virt_obj in the crop cameras, mm, in the mesh file's frame.

        Args:
            model: one that passed `check`.
            batch: crops on its device.
            depth: z in the crop cameras, mm, 0 where there is none.
            stages: told how long the network took, and making poses of what it says, with the solver's stages apart.

        Raises:
            ValueError: for a depth image where poses cannot be moved to one.
        """
        if depth is not None:
            self.check_depth(model)
        method, stages = model.method, stages or Stages(batch.image.device)
        with stages.timed("network"):
            if isinstance(method, SurfEmbMethod) and self.options.query_turns > 1:
                output = method.ensemble(batch, self.options.query_turns)
            else:
                output = method(batch)
        with stages.timed("poses"):
            return self._poses(model, batch, output, depth, stages)

    def check_depth(self, model: Model) -> None:
        """Raise ValueError for a model whose poses cannot be moved to a depth image.

        They are moved by what a query model knows of the mask, whatever they were made of but PnP.
        """
        if self.options.solver != "pnp" and isinstance(model.method, QueryImageMethod):
            return
        names, method = ", ".join(part.name for part in model.parts), type(model.method).__name__
        what = "poses of PnP" if self.options.solver == "pnp" else f"those of a {method}"
        raise ValueError(
            f"a depth image was given for {names}, but only poses of a query image are moved to depth, not {what}; "
            "leave the depth image out, or use a query model with another solver"
        )

    def _poses(
        self, model: Model, batch: CropBatch, output: Any, depth: Float[Tensor, "b r r"] | None, stages: Stages
    ) -> Poses:
        method, way = model.method, self.way(model)
        if way in ("sampling", "search"):
            return self._solver(model, batch, output, depth, stages)
        assert isinstance(method, PoseMethod), "as `check` saw to"
        if way == "pnp":
            return _pnp_poses(method, output, batch)
        if way == "refined":
            return self._refiner(model, batch, output, depth, stages)
        poses = regressed_poses(*method.poses(output, batch))
        return poses if depth is None else self._refiner.at_depth(model, batch, output, depth, poses)


def _pnp_poses(method: PoseMethod, output: Any, batch: CropBatch) -> Poses:
    """Poses of robust PnP, scored by the share of coordinates that agree."""
    maps = method.coordinate_maps(output, batch) if isinstance(method, RegressionMethod) else None
    assert maps is not None, "as `check` saw to"
    found = robust_pnp(maps)
    there = torch.isfinite(found.T_virt_obj).flatten(1).all(1)
    return Poses(found.T_virt_obj, torch.where(there, found.inliers, 0.0), PoseDetails.unknown(list(found.reasons)))


def poses_in_source(poses: Poses, camera: VirtualCamera) -> Poses:
    """Poses of crop cameras in the frame of the source camera, with orthonormal rotations.

    The cameras differ by a rotation alone, and so do the left perturbations that a covariance is about.
    """
    R = camera.R_virt_cam.to("cpu", torch.float64).transpose(1, 2)
    details = poses.details
    both = torch.zeros(len(poses), 6, 6, dtype=torch.float64)
    both[:, :3, :3] = both[:, 3:, 3:] = R
    turned = replace(
        details, covariance=both @ details.covariance @ both.transpose(1, 2),
        free_axis=(R @ details.free_axis[..., None])[..., 0], alternatives=_turned(details.alternatives, R[:, None]),
    )  # fmt: skip
    return Poses(_turned(poses.T_cam_obj, R), poses.score, turned)


def _turned(T: Float[Tensor, "*batch 4 4"], R: Float[Tensor, "*any 3 3"]) -> Float[Tensor, "*batch 4 4"]:
    there = torch.isfinite(T[..., :1, 0])[..., None]
    rotation = torch.where(there, R @ T[..., :3, :3], torch.eye(3, dtype=T.dtype))
    T = make_transform(nearest_rotation(rotation), (R @ T[..., :3, 3:])[..., 0])
    return torch.where(there, T, torch.nan)


def regressed_poses(T_virt_obj: Float[Tensor, "b 4 4"], score: Float[Tensor, "b"]) -> Poses:
    """Poses of which nothing else is known; those that are not finite are none."""
    T_virt_obj, score = T_virt_obj.double().cpu(), score.double().cpu()
    finite = torch.isfinite(T_virt_obj).flatten(1).all(1) & torch.isfinite(score)
    reasons = [None if fine else "the network's output holds numbers that are not finite" for fine in finite.tolist()]
    T_virt_obj = torch.where(finite[:, None, None], T_virt_obj, torch.nan)
    return Poses(T_virt_obj, torch.where(finite, score, 0.0), PoseDetails.unknown(reasons))
