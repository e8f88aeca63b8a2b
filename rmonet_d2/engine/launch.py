"""Detectron2's ``launch``, extended to machines without a GPU and to ``torchrun``.

On machines with GPUs, this calls Detectron2's own. Without GPUs, ``--num-gpus N`` starts N
processes that share the CPU's cores and communicate over gloo, which Detectron2 0.6 refuses. A
process that ``torchrun`` has started joins the others. A user error in any process ends all of them
with a one-line message.
"""

import gc
import os
import signal
import socket
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from rmonet_d2.utils.errors import UserError

# Marks the message of a user error on its way from a worker process to the one that started it.
_MARK = "[rmonet_d2 user error] "


_LOST = (
    "a process on another machine has ended; its output says why. Restart all machines with "
    "--resume to continue from the last checkpoint in OUTPUT_DIR."
)


class WorkerError(UserError, RuntimeError):
    """A process of a distributed run ended early; the message says which one and how."""


class _Guarded:
    """Wraps a main function so that the message of a :class:`UserError` reaches the parent."""

    def __init__(self, main: Callable):
        self.main = main

    def __call__(self, *args):
        try:
            return self.main(*args)
        except UserError as error:
            if comm.get_world_size() == 1:
                raise
            raise RuntimeError(f"{_MARK}{error}") from None
        except RuntimeError as error:
            if not _is_lost_connection(error):
                raise
            raise RuntimeError(f"{_MARK}{_LOST} ({error})") from None


def _is_lost_connection(error: RuntimeError) -> bool:
    """Return whether a collective operation failed because a peer process is gone."""
    text = str(error).lower()
    return isinstance(error, dist.DistBackendError) or ("gloo" in text and "by peer" in text)


def launch(main: Callable, args):
    """Run ``main(args)`` in ``args.num_gpus`` processes on each of ``args.num_machines`` machines.

    Args:
        main: function that each process calls with ``args``.
        args: parsed flags of Detectron2's ``default_argument_parser``.

    Raises:
        WorkerError: a process was killed, or raised a :class:`UserError`.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _run_under_torchrun(main, args)
    guarded = _Guarded(main)
    world_size = args.num_gpus * args.num_machines
    try:
        if world_size > 1 and not torch.cuda.is_available():
            return _launch_on_cpu(guarded, args)
        return detectron2_launch(
            guarded,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessRaisedException as error:
        if _MARK in str(error):
            raise WorkerError(str(error).rsplit(_MARK, 1)[1].strip()) from None
        raise
    except ProcessExitedException as error:
        raise WorkerError(_how_it_ended(error)) from None


def _how_it_ended(error: ProcessExitedException) -> str:
    code = error.exit_code
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    return (
        f"process {error.error_index} of this machine {how}, and the others were stopped. Use "
        "--resume to continue from the last checkpoint in OUTPUT_DIR."
    )


def _launch_on_cpu(main: Callable, args) -> None:
    url = args.dist_url
    if url == "auto":
        if args.num_machines > 1:
            raise WorkerError("--dist-url auto works on one machine only: give tcp://HOST:PORT.")
        url = f"tcp://127.0.0.1:{_free_port()}"
    mp.spawn(_cpu_worker, nprocs=args.num_gpus, args=(main, args, url), daemon=False)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _cpu_worker(local_rank: int, main: Callable, args, url: str) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(cores // args.num_gpus, 1))
    _join(
        url,
        rank=args.machine_rank * args.num_gpus + local_rank,
        world_size=args.num_gpus * args.num_machines,
        local_rank=local_rank,
        per_machine=args.num_gpus,
    )
    _run_and_leave(main, args)


def _run_under_torchrun(main: Callable, args) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    _join("env://", *(int(os.environ[name]) for name in names))
    _run_and_leave(main, args)


def _join(url: str, rank: int, world_size: int, local_rank: int, per_machine: int) -> None:
    """Join the process group like Detectron2's ``_distributed_worker``; NCCL with GPUs, or gloo."""
    has_gpu = torch.cuda.is_available()
    dist.init_process_group(
        "nccl" if has_gpu else "gloo",
        init_method=url,
        world_size=world_size,
        rank=rank,
        timeout=DEFAULT_TIMEOUT,
    )
    for first in range(0, world_size, per_machine):
        ranks = list(range(first, first + per_machine))
        group = dist.new_group(ranks)
        if rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group
    if has_gpu:
        torch.cuda.set_device(local_rank)
    comm.synchronize()


def _run_and_leave(main: Callable, args) -> None:
    """Run ``main``, then leave the process group, even if a signal has stopped the run."""
    interrupted = False
    try:
        main(args)
        comm.synchronize()
    except KeyboardInterrupt:
        # Raised anew below, because this traceback holds the model, and with it the process group.
        interrupted = True
    _leave()
    if interrupted:
        raise KeyboardInterrupt


def _leave() -> None:
    """Leave the process group and end gloo's threads, which Detectron2's references keep alive.

    A gloo thread that releases a tensor during interpreter shutdown aborts the process after all
    work is done ("terminate called without an active exception").
    """
    dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    gc.collect()
