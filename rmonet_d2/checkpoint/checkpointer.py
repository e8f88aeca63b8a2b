"""Detectron2's checkpointer with clear errors, safe against kills and untrusted files."""

import logging
import os
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from rmonet_d2.checkpoint.files import (
    CheckpointError,
    read_weights,
    remove_partial_files,
    write_checkpoint,
)
from rmonet_d2.checkpoint.resume import newest_that_loads, prune, write_pointer
from rmonet_d2.checkpoint.torchvision_weights import (
    BACKBONE,
    convert_torchvision_resnet,
    is_torchvision_resnet,
)
from rmonet_d2.model_zoo import find_weights
from rmonet_d2.modeling.monet.step_norm import fit_steps
from rmonet_d2.utils.errors import MissingFileError, NonFiniteLossError

_logger = logging.getLogger(__name__)


class SafeCheckpointer(DetectionCheckpointer):
    """``DetectionCheckpointer`` that runs no code from files and loses no checkpoint to a kill.

    - :func:`read_weights` reads all files.
    - Checkpoints and ``last_checkpoint`` are written atomically, and only if all weights are
      finite.
    - A resumed run uses the newest checkpoint that loads, whatever ``last_checkpoint`` says.

    Args:
        keep: number of numbered checkpoints that stay in the folder, see :func:`prune`; 0 keeps
            all.
    """

    def __init__(self, model, save_dir="", *, keep: int = 0, **options):
        super().__init__(model, save_dir, **options)
        self.keep = keep
        # Name of the last checkpoint whose weights are known to be finite.
        self.last_good = ""
        self._resumed: tuple[str, dict[str, Any]] | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write a checkpoint, update ``last_checkpoint``, and remove old checkpoints.

        Raises:
            NonFiniteLossError: a weight is not finite; nothing is written.
            CheckpointError: the file cannot be written; existing files remain intact.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        self._check_finite()
        data = {"model": self.model.state_dict()}
        data |= {key: item.state_dict() for key, item in self.checkpointables.items()} | kwargs
        file_name = f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {os.path.join(self.save_dir, file_name)}")
        try:
            write_checkpoint(data, os.path.join(self.save_dir, file_name))
            self.tag_last_checkpoint(file_name)
        except CheckpointError as error:
            raise CheckpointError(f"{error} {self.what_is_good()}") from None
        self.last_good = file_name
        self._resumed = None
        prune(self.save_dir, file_name, self.keep)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        try:
            write_pointer(self.save_dir, last_filename_basename)
        except OSError as error:
            raise CheckpointError(
                f"{self.save_dir}/last_checkpoint cannot be written: {error.strerror or error}."
            ) from None

    def what_is_good(self) -> str:
        """Return a sentence that says from where a run that ends now can be resumed."""
        if self.last_good:
            return (
                f"The last checkpoint in OUTPUT_DIR, {self.last_good}, is good: go on with "
                "--resume."
            )
        return "No checkpoint has been written yet."

    def _check_finite(self) -> None:
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise NonFiniteLossError(
                    f"{name} is not finite, so no checkpoint is written. {self.what_is_good()}"
                )

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the path of the checkpoint from which a run is resumed, or ""."""
        if not self.save_dir:
            return ""
        if self._resumed is None:
            name, content, passed = newest_that_loads(self.save_dir, list(self.checkpointables))
            if name and passed:
                _logger.warning(f"Resuming from {name}, because {'; '.join(passed)}")
            self._resumed = (os.path.join(self.save_dir, name) if name else "", content)
        return self._resumed[0]

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        self._resumed = None
        if self.save_to_disk and self.save_dir:
            remove_partial_files(self.save_dir)
        result = super().resume_or_load(path, resume=resume)
        if resume and self.has_checkpoint():
            self.last_good = os.path.basename(self.get_checkpoint_file())
            # Its content is no longer needed.
            self._resumed = (self.get_checkpoint_file(), {})
        return result

    def load(self, path, checkpointables=None):
        """Load a file, a URL, or weights of this project by name; "" loads nothing.

        Raises:
            MissingFileError: the file does not exist.
            CheckpointError: the file cannot be read or does not fit the model, or the download
                failed.
        """
        if path and "://" in path:
            path = self._download(path)
        elif path and not os.path.isfile(path):
            try:
                path = find_weights(path)
            except MissingFileError as error:
                raise MissingFileError(f"MODEL.WEIGHTS: {error}") from None
        try:
            return super().load(path, checkpointables)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            text = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{path} holds a state that does not fit this training ({text}). Start from its "
                "weights alone: MODEL.WEIGHTS, without --resume."
            ) from None

    def _download(self, address: str) -> str:
        try:
            return self.path_manager.get_local_path(address)
        except CheckpointError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f'MODEL.WEIGHTS is "{address}", which cannot be fetched ({text}). Download the '
                'file and name it in MODEL.WEIGHTS, or start without it: MODEL.WEIGHTS "".'
            ) from None

    def _load_file(self, filename: str) -> dict[str, Any]:
        if self._resumed and self._resumed[0] == filename and self._resumed[1]:
            # The file was already read when it was chosen. Copy the dict, because the caller
            # removes its entries.
            return dict(self._resumed[1])
        return read_weights(filename)


class SceneCheckpointer(SafeCheckpointer):
    """Loads this project's checkpoints, and rejects weights that fit only partly.

    ``MODEL.WEIGHTS`` may be a checkpoint of this project (a full one, or weights only, in single or
    half precision), or torchvision's ImageNet ResNet18, which goes into the backbone and is given
    as a file or as ``torchvision://resnet18``.

    Args:
        partial: load whatever fits from a file, and list the rest (MODEL.PARTIAL_WEIGHTS).
        config: YAML text that checkpoints store as "config", so that a weights file can be used on
            its own; "" stores none.
    """

    def __init__(self, model, save_dir="", *, partial: bool = False, config: str = "", **options):
        super().__init__(model, save_dir, **options)
        self.partial = partial
        self.config = config

    def save(self, name: str, **kwargs: Any) -> None:
        if self.config:
            kwargs["config"] = self.config
        super().save(name, **kwargs)

    def _load_file(self, filename):
        loaded = super()._load_file(filename)
        if loaded.get("matching_heuristics") and self.partial:
            return loaded
        state = loaded["model"]
        if is_torchvision_resnet(state):
            state = convert_torchvision_resnet(state)
            expected = [name for name in self.model.state_dict() if name.startswith(BACKBONE)]
            expected = [name for name in expected if not name.endswith("num_batches_tracked")]
            loaded = {"model": self._fitting(filename, state, expected)}
            _logger.info(f"{filename}: torchvision's ResNet, converted.")
            return loaded
        fit_steps(self.model, state)
        return {**loaded, "model": self._fitting(filename, state, list(self.model.state_dict()))}

    def _fitting(
        self, filename: str, state: dict[str, torch.Tensor], expected: list[str]
    ) -> dict[str, torch.Tensor]:
        """Return the entries of a state dict that fit the model.

        Raises:
            CheckpointError: entries of ``expected`` are missing or have another shape, or there are
                unknown entries, and ``partial`` is False; or nothing fits.
        """
        own = self.model.state_dict()
        missing = sorted(set(expected) - state.keys())
        unknown = sorted(state.keys() - own.keys())
        common = sorted(own.keys() & state.keys())
        shapes = [
            f"{name} {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
            for name in common
            if state[name].shape != own[name].shape
        ]
        if not (missing or unknown or shapes) and expected:
            return state
        parts = [
            f"{len(names)} {what} (the first: {names[0]})"
            for names, what in (
                (missing, "of the model's parameters are missing"),
                (unknown, "parameters are not the model's"),
                (shapes, "have another shape"),
            )
            if names
        ]
        fitting = {name: state[name] for name in common if state[name].shape == own[name].shape}
        if not self.partial or not fitting:
            raise CheckpointError(
                f"{filename} is a checkpoint of another architecture: {'; '.join(parts)}. Use the "
                "config that it was trained with (config.yaml in its output folder)"
                + (", or take what fits: MODEL.PARTIAL_WEIGHTS True." if fitting else ".")
            )
        _logger.warning(
            f"{filename} fits only partly: {len(fitting)} of the model's {len(own)} parameters are "
            f"loaded; {'; '.join(parts)}."
        )
        return fitting

    def _load_model(self, checkpoint: Any):
        incompatible = super()._load_model(checkpoint)
        if len(incompatible.missing_keys) >= len(self.model.state_dict()):
            raise CheckpointError("MODEL.WEIGHTS: nothing in the file fits the model.")
        return incompatible
