"""Reports faults of the machine during training as one-line errors."""

import contextlib
import errno
import logging
from collections.abc import Iterator

from rmonet_d2.checkpoint import SafeCheckpointer
from rmonet_d2.utils.errors import NonFiniteLossError, UserError

# Errors of a disk or folder rather than of the program.
_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ESTALE,
}
_WORKER_DIED = "DataLoader worker"


class OutputError(UserError, OSError):
    """The output folder cannot be written. The message says why and how to continue."""


class LoaderError(UserError, RuntimeError):
    """A worker process of the data loader died, for example because it ran out of memory."""


@contextlib.contextmanager
def describing_faults(folder: str, checkpointer: SafeCheckpointer | None = None) -> Iterator[None]:
    """Convert a full disk, a read-only folder and a killed loader worker to user errors.

    Each message, including that of a non-finite loss, ends with the checkpoint to resume from.

    Args:
        folder: OUTPUT_DIR.
        checkpointer: knows the last checkpoint whose weights are finite.

    Raises:
        OutputError, LoaderError, NonFiniteLossError: see above.
    """

    def rest() -> str:
        return f" {checkpointer.what_is_good()}" if checkpointer else ""

    logger = logging.getLogger("detectron2.engine.train_loop")
    logger.addFilter(_keep_record)
    try:
        yield
    except UserError as error:
        if isinstance(error, NonFiniteLossError) and checkpointer:
            raise NonFiniteLossError(f"{error}{rest()}") from None
        raise
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = error.filename or f"OUTPUT_DIR {folder}"
        raise OutputError(f"{where} cannot be written: {error.strerror}.{rest()}") from None
    except RuntimeError as error:
        if _WORKER_DIED not in str(error):
            raise
        raise LoaderError(
            "a worker process of the data loader was killed, perhaps because memory ran out: "
            f"lower DATALOADER.NUM_WORKERS.{rest()}"
        ) from None
    finally:
        logger.removeFilter(_keep_record)


def _keep_record(record: logging.LogRecord) -> bool:
    """Suppress Detectron2's traceback of an error that is reported in one line."""
    error = record.exc_info[1] if record.exc_info else None
    return not (
        isinstance(error, UserError)
        or (isinstance(error, OSError) and error.errno in _DISK)
        or _WORKER_DIED in str(error)
    )
