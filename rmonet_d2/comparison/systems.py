"""The eight systems that the paper compares, with its results for them (Tables 1 and 2)."""

import os
from dataclasses import dataclass

DATASETS = ("multi_dsprites", "clevr")
# Overrides that adapt a quick config, made for Multi-dSprites, to CLEVR: the data, the rows of the
# paper's tables that differ between the two, and SPACE's grid. The image sizes stay the same.
_CLEVR_DATA = [
    *("DATASETS.TRAIN", "('clevr_train',)"),
    *("DATASETS.TEST", "('clevr_test',)"),
]
_CLEVR_K: list = ["MODEL.SCENE.NUM_COMPONENTS", 7]
# The median object is 12 of 64 pixels wide, a sprite 17, so a cell of the quick config's 4x4 grid
# merged two neighboring objects (docs/experiments.md, 2026-11-28). This is the paper's grid.
_CLEVR_CELLS: list = ["MODEL.SPACE.GRID_SIZE", 8, "MODEL.SPACE.SCALE_MEAN", "[-1.0, -1.5, 0, 1000]"]
_CLEVR_SCALES = ["MODEL.SCENE.SIGMA_BG", 0.06, "MODEL.SCENE.SIGMA_FG", 0.10]


@dataclass(frozen=True)
class System:
    """One system of the comparison.

    Attributes:
        name: name of the system in the names of configs.
        title: name of the system in the paper's tables.
        ari: {data set: ARI} of Table 1.
        box_ap: {data set: (AP50:95, AP50, AP75)} of Table 2; {} for systems without boxes.
    """

    name: str
    title: str
    ari: dict[str, float]
    box_ap: dict[str, tuple[float, float, float]]

    def config(self, dataset: str, full: bool) -> tuple[str, list]:
        """Return a config file, relative to the project, and its overrides for a data set.

        Args:
            dataset: one of ``DATASETS``.
            full: use the named config, at the paper's widths, instead of the quick one.
        """
        if full:
            return os.path.join("configs", f"{dataset}_{self.name}.yaml"), []
        overrides: list = []
        if dataset == "clevr":
            overrides += _CLEVR_DATA
            # SPACE outputs equally many objects on both data sets, and neither SPACE nor IODINE
            # uses the MONets' sigmas.
            overrides += _CLEVR_CELLS if self.name == "space" else _CLEVR_K
            overrides += [] if self.name in ("space", "iodine") else _CLEVR_SCALES
        return os.path.join("configs", "quick", f"{self.name}.yaml"), overrides


def _system(name, title, ari, box_ap=None):
    return System(
        name,
        title,
        dict(zip(("clevr", "multi_dsprites"), ari, strict=True)),
        dict(zip(("clevr", "multi_dsprites"), box_ap or (), strict=False)),
    )


_ALL = (
    _system("monet", "MONet", (0.927, 0.944)),
    _system("monet_fpn", "MONet (ResNet18 + FPN)", (0.822, 0.607)),
    _system("monet_fpn_unet", "MONet (ResNet18 + FPN + UNet)", (0.825, 0.853)),
    _system("iodine", "IODINE", (0.962, 0.724)),
    _system("space", "SPACE", (0.934, 0.844), ((0.592, 0.863, 0.679), (0.309, 0.757, 0.174))),
    _system(
        "rmonet_roialign",
        "R-MONet (ROI Align)",
        (0.878, 0.633),
        ((0.488, 0.865, 0.496), (0.319, 0.711, 0.237)),
    ),
    _system(
        "rmonet_lite",
        "R-MONet (Lite)",
        (0.949, 0.801),
        ((0.611, 0.935, 0.730), (0.427, 0.802, 0.419)),
    ),
    _system(
        "rmonet_unet",
        "R-MONet (UNet)",
        (0.981, 0.951),
        ((0.645, 0.969, 0.775), (0.435, 0.839, 0.407)),
    ),
)
SYSTEMS = {system.name: system for system in _ALL}
