"""Writers for experiment trackers, which are imported only when a config asks for them."""

import importlib
import json
import os
from types import ModuleType

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from rmonet_d2.utils.errors import ConfigError

# Detectron2 averages a training scalar over so many iterations before it writes it.
_WINDOW = 20
# Remembers the tracker's run, so that training with --resume goes on in it.
RUN_FILE = "tracking.json"


def build_tracking_writers(cfg: CfgNode) -> list[EventWriter]:
    """Build the writers that LOGGING.WRITERS names, in that order.

    Raises:
        ConfigError: an unknown name, or the tracker's package is not installed.
    """
    unknown = [name for name in cfg.LOGGING.WRITERS if name not in _WRITERS]
    if unknown:
        raise ConfigError(f'LOGGING.WRITERS has "{unknown[0]}": use some of {list(_WRITERS)}.')
    return [_WRITERS[name](cfg) for name in cfg.LOGGING.WRITERS]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(
            f'LOGGING.WRITERS has "{name}", but the package {name} is not installed: pip install '
            f"{name}, or leave it out."
        ) from None


class TrackingWriter(EventWriter):
    """Hands each scalar of the event storage to a tracker once, with its iteration."""

    def __init__(self, output_dir: str, tracker: str):
        """
        Args:
            output_dir: OUTPUT_DIR; it gets ``tracking.json`` with the id of the tracker's run.
            tracker: name of the tracker.
        """
        self.tracker = tracker
        self._path = os.path.join(output_dir, RUN_FILE)
        self._last = -1

    def write(self) -> None:
        storage = get_event_storage()
        by_iteration: dict[int, dict[str, float]] = {}
        newest = self._last
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last:
                by_iteration.setdefault(iteration, {})[name] = float(value)
                newest = max(newest, iteration)
        for iteration in sorted(by_iteration):
            self.log(by_iteration[iteration], iteration)
        self._last = newest

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Hand scalars of one iteration to the tracker."""
        raise NotImplementedError

    def known_run(self) -> str | None:
        """Return the id of the run that an earlier start made in this OUTPUT_DIR."""
        try:
            with open(self._path, encoding="utf-8") as file:
                return json.load(file).get(self.tracker)
        except (OSError, ValueError, AttributeError):
            return None

    def remember_run(self, run_id: str) -> None:
        """Write the id of the tracker's run beside the checkpoints."""
        os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
        with open(self._path, "w", encoding="utf-8") as file:
            json.dump({self.tracker: run_id}, file)


class WandbWriter(TrackingWriter):
    """Weights & Biases: one run per OUTPUT_DIR, with the config."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg.OUTPUT_DIR, "wandb")
        self._run = _import("wandb").init(
            project=cfg.LOGGING.PROJECT,
            name=cfg.LOGGING.RUN_NAME or None,
            dir=cfg.OUTPUT_DIR,
            id=self.known_run(),
            resume="allow",
            config={"config": cfg.dump()},
        )
        self.remember_run(self._run.id)

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        self._run.log(scalars, step=iteration)

    def close(self) -> None:
        self._run.finish()


class MLflowWriter(TrackingWriter):
    """MLflow: one run per OUTPUT_DIR in the experiment LOGGING.PROJECT, with the config."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg.OUTPUT_DIR, "mlflow")
        self._mlflow = _import("mlflow")
        self._mlflow.set_experiment(cfg.LOGGING.PROJECT)
        run = self._mlflow.start_run(run_id=self.known_run(), run_name=cfg.LOGGING.RUN_NAME or None)
        self.remember_run(run.info.run_id)
        self._mlflow.log_text(cfg.dump(), "config.yaml")

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        # MLflow allows no other signs in names.
        allowed = {
            "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name): value
            for name, value in scalars.items()
        }
        self._mlflow.log_metrics(allowed, step=iteration)

    def close(self) -> None:
        self._mlflow.end_run()


_WRITERS = {
    "tensorboard": lambda cfg: TensorboardXWriter(cfg.OUTPUT_DIR),
    "wandb": WandbWriter,
    "mlflow": MLflowWriter,
}
