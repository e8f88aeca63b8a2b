"""Data loaders whose batches depend only on the seed and the iteration.

Detectron2 0.6 distributes images to its workers before it forms batches, so the content of a batch
depends on NUM_WORKERS, and a resumed run restarts the shuffle. Here, workers receive whole batches,
and the sampler starts where the interrupted run stopped.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from rmonet_d2.data.catalog import unlabelled_dicts
from rmonet_d2.data.mapper import UnlabelledMapper, UnreadableImageError
from rmonet_d2.utils.errors import ConfigError
from rmonet_d2.utils.worker_processes import leave_signals_to_parent

Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]


class ResumableTrainingSampler(Sampler[int]):
    """Endless stream of indices that can start anywhere; each index occurs once per epoch.

    Args:
        size: number of records.
        shuffle: use a new order in every epoch, drawn from (seed, epoch); otherwise the order is
            0, 1, 2, ...
        seed: seed of the order; must be the same in all processes.
        start: number of indices that all processes together have already used.
        rank, world_size: this process takes every ``world_size``-th index of the stream, starting
            with number ``rank``; by default the values of Detectron2's ``comm``.

    Raises:
        ValueError: there are no records, or the start is negative.
    """

    def __init__(
        self,
        size: int,
        shuffle: bool = True,
        seed: int = 0,
        start: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if size <= 0 or start < 0:
            raise ValueError(f"need size > 0 and start >= 0, got size {size}, start {start}")
        self.size = size
        self.shuffle = shuffle
        self.seed = seed
        self.start = start
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size

    def epoch_order(self, epoch: int) -> list[int]:
        """Return all indices in the order of one epoch."""
        if not self.shuffle:
            return list(range(self.size))
        # With this large odd stride, seeds 1 and 2 share no epoch's order within any run.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.size, generator=generator).tolist()

    def _stream(self) -> Iterator[int]:
        epoch, offset = divmod(self.start, self.size)
        for number in itertools.count(epoch):
            yield from self.epoch_order(number)[offset:]
            offset = 0

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self.rank, None, self.world_size)


class MappedBatches(Dataset):
    """Maps a list of indices to a list of mapped records.

    A record that the mapper rejects (by returning None) is replaced by the next one that it
    accepts, so the replacement depends only on the index.

    Raises:
        UnreadableImageError: the mapper rejects all records.
    """

    def __init__(self, records: Any, mapper: Mapper) -> None:
        self.records = records
        self.mapper = mapper
        self._refused: set[int] = set()

    def __len__(self) -> int:
        return len(self.records)

    def _get(self, index: int) -> dict[str, Any]:
        total = len(self.records)
        for step in range(total):
            candidate = (index + step) % total
            if candidate in self._refused:
                continue
            mapped = self.mapper(self.records[candidate])
            if mapped is not None:
                return mapped
            self._refused.add(candidate)
        raise UnreadableImageError(f"none of the {total} images of the training set can be read.")

    def __getitem__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self._get(i) for i in indices]


def _start_worker(number: int) -> None:
    leave_signals_to_parent()
    worker_init_reset_seed(number)


def build_train_loader(
    cfg: CfgNode, mapper: Mapper | None = None, start_iter: int = 0
) -> DataLoader:
    """Build the endless training loader of DATASETS.TRAIN.

    Args:
        cfg: config, of which this reads DATASETS.TRAIN, INPUT.UNREADABLE, SOLVER.IMS_PER_BATCH,
            SOLVER.ACCUMULATE_PARTS, DATALOADER.NUM_WORKERS and SEED.
        mapper: by default ``UnlabelledMapper``.
        start_iter: number of iterations already done; batch i does not depend on it.

    Returns:
        A loader of ``list[dict]`` batches with IMS_PER_BATCH / world size images each.

    Raises:
        ConfigError: SOLVER.IMS_PER_BATCH cannot be divided among the processes.
    """
    mapper = UnlabelledMapper(cfg, True) if mapper is None else mapper
    records = DatasetFromList(
        unlabelled_dicts(
            cfg.DATASETS.TRAIN, cfg.INPUT.UNREADABLE, outside=cfg.INPUT.OUTSIDE_IMAGE_ROOT
        ),
        copy=False,
    )
    total, world_size = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    parts = cfg.SOLVER.ACCUMULATE_PARTS
    if total < 1 or total % (world_size * parts):
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {total}: it must be a positive multiple of the "
            f"{world_size} processes" + (f" times SOLVER.ACCUMULATE_PARTS = {parts}" * (parts > 1))
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = ResumableTrainingSampler(len(records), seed=seed, start=start_iter * total)
    workers = cfg.DATALOADER.NUM_WORKERS
    return DataLoader(
        MappedBatches(records, mapper),
        sampler=BatchSampler(sampler, total // world_size, drop_last=True),
        batch_size=None,
        num_workers=workers,
        collate_fn=trivial_batch_collator,
        worker_init_fn=_start_worker,
        # A separate generator, because creating an iterator must not advance the global one, from
        # which the model draws.
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=workers > 0,
    )


def build_test_loader(
    cfg: CfgNode, name: str, mapper: Mapper | None = None, batch_size: int = 16
) -> DataLoader:
    """Build the loader of one test set: every image once, split among processes as in Detectron2.

    Detectron2 0.6's ``build_detection_test_loader`` loads single images only, and small images are
    evaluated much faster in batches.

    Args:
        cfg: config, of which this reads DATALOADER.NUM_WORKERS and TEST.MAX_IMAGES (the number of
            records to use, from the first one on; 0 uses all).
        name: name in DatasetCatalog.
        mapper: by default ``UnlabelledMapper`` for evaluation.
        batch_size: images per batch in this process.
    """
    mapper = UnlabelledMapper(cfg, False) if mapper is None else mapper
    records = unlabelled_dicts(name, outside=cfg.INPUT.OUTSIDE_IMAGE_ROOT)
    if cfg.TEST.MAX_IMAGES > 0:
        records = records[: cfg.TEST.MAX_IMAGES]
    return DataLoader(
        MapDataset(DatasetFromList(records, copy=False), mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(records)),
        drop_last=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=_start_worker,
    )
