"""The training step: seeded, in mixed precision, checked for finite losses, with clipping."""

import logging
import math
import time
from contextlib import nullcontext

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch.nn.parallel import DistributedDataParallel

from rmonet_d2.modeling.deferred_scalars import read_deferred
from rmonet_d2.modeling.sharded_random import part_of_batch
from rmonet_d2.utils.errors import NonFiniteLossError
from rmonet_d2.utils.precision import autocast_dtype, training_autocast


def non_finite_loss(losses: dict[str, float], iteration: int) -> str | None:
    """Return the error message for losses that are NaN or infinite, or None if all are finite."""
    bad = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
    if not bad:
        return None
    return (
        f"iteration {iteration}: {', '.join(bad)} is not finite; training stops before it changes "
        "the weights. Lower SOLVER.BASE_LR (for SPACE: SOLVER.FG_LR and BG_LR) or "
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE, or disable SOLVER.AMP."
    )


class SceneTrainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` with the training step of this module.

    Reads the keys SEED, SOLVER.AMP, SOLVER.CLIP_GRADIENTS and SOLVER.ACCUMULATE_PARTS.
    """

    def __init__(self, model, data_loader, optimizer, cfg: CfgNode):
        super().__init__(model, data_loader, optimizer)
        self.seed = max(cfg.SEED, 0)
        self.autocast = training_autocast(cfg)
        dtype = autocast_dtype(cfg)
        if cfg.SOLVER.AMP.ENABLED and dtype is None:
            logging.getLogger(__name__).warning(
                "SOLVER.AMP: this CPU has no AVX-512 and would emulate bfloat16, several times "
                "slower than float32, so training uses float32. Set SOLVER.AMP.EMULATED True to "
                "train in bfloat16 nevertheless."
            )
        self.grad_scaler = torch.amp.GradScaler(
            torch.device(cfg.MODEL.DEVICE).type, enabled=dtype == torch.float16
        )
        clip = cfg.SOLVER.CLIP_GRADIENTS
        self.max_norm = clip.CLIP_VALUE if clip.ENABLED else math.inf
        self.num_parts = cfg.SOLVER.ACCUMULATE_PARTS
        self.is_distributed = isinstance(model, DistributedDataParallel)

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad(set_to_none=True)
        loss_dict = self._accumulate(data)
        self.grad_scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        # The only host read of this step. The weights change only if all scalars are finite.
        numbers = read_deferred(**loss_dict, grad_norm=norm)
        losses = {name: numbers[name] for name in loss_dict}
        self._check(losses, numbers["grad_norm"])
        self._write_metrics({name: torch.tensor(loss) for name, loss in losses.items()}, data_time)
        get_event_storage().put_scalar("grad_norm", numbers["grad_norm"])
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _accumulate(self, data: list[dict]) -> dict[str, torch.Tensor]:
        """Accumulate the gradients of all parts of a batch; return the batch's mean losses."""
        size = len(data) // self.num_parts
        total: dict[str, torch.Tensor] = {}
        for part in range(self.num_parts):
            # Processes exchange gradients only once, after the last part.
            is_last = part == self.num_parts - 1
            alone = nullcontext() if is_last or not self.is_distributed else self.model.no_sync()
            with alone, part_of_batch(part, self.num_parts):
                losses = self._forward(data[part * size : (part + 1) * size])
                self.grad_scaler.scale(sum(losses.values()) / self.num_parts).backward()
            for name, loss in losses.items():
                total[name] = total.get(name, 0.0) + loss.detach() / self.num_parts
        return total

    def _forward(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        # All ranks and parts use the same seed, and each takes the numbers drawn for its images.
        torch.manual_seed((self.seed << 40) + self.iter)
        with self.autocast:
            return self.model(inputs)

    def _check(self, losses: dict[str, float], grad_norm: float) -> None:
        message = non_finite_loss(losses, self.iter)
        # The gradient scaler of float16 expects infinite gradients and skips their steps.
        if not message and not self.grad_scaler.is_enabled():
            message = non_finite_loss({"grad_norm": grad_norm}, self.iter)
        if message:
            raise NonFiniteLossError(message)

    def state_dict(self):
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict.get("grad_scaler", {}))
