"""Trainer hooks."""

import logging
import signal
import threading

from detectron2.engine import HookBase
from detectron2.utils import comm


class SaveOnSignal(HookBase):
    """On Ctrl-C, SIGTERM or SIGHUP, finish the iteration, save a checkpoint and stop training.

    ``--resume`` then continues with the next iteration. A second signal stops immediately.
    """

    SIGNALS = tuple(
        getattr(signal, name)
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
        if hasattr(signal, name)  # Windows has no SIGHUP.
    )

    def __init__(self):
        self.received = None
        self._handlers = {}

    def _receive(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def before_train(self):
        if threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._receive)
                for number in self.SIGNALS
                # What nohup has told the program to ignore stays ignored.
                if signal.getsignal(number) != signal.SIG_IGN
            }

    def after_step(self):
        # A signal may reach the ranks in different iterations, but they have to stop together.
        received = next((name for name in comm.all_gather(self.received) if name), None)
        if received is None:
            return
        iteration = self.trainer.iter
        if comm.is_main_process():
            self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        # No rank may leave while another one still waits for it.
        comm.synchronize()
        logging.getLogger(__name__).warning(
            f"{received} after iteration {iteration}: saved a checkpoint; continue with --resume."
        )
        raise KeyboardInterrupt

    def after_train(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
