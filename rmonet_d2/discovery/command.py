"""What ``rmonet discover`` does, from its options to the report."""

import argparse
import os
from typing import Any

from rmonet_d2.data.image_reader import printable
from rmonet_d2.discovery.discoverer import Discoverer
from rmonet_d2.discovery.inputs import Inputs, check_output, list_inputs
from rmonet_d2.discovery.preparation import (
    WEIGHTS_FILE,
    earlier_choices,
    plan_training,
    start_again,
    train_weights,
)
from rmonet_d2.discovery.progress import Progress, duration
from rmonet_d2.discovery.report import write_report
from rmonet_d2.discovery.run import Job, Wanted
from rmonet_d2.discovery.tables import write_tables
from rmonet_d2.model_zoo import find_weights
from rmonet_d2.utils.errors import InputError, UserError
from rmonet_d2.utils.memory import keep_freed_memory

# Files that are named on the screen.
_NAMED = 10
# Objects per tile when finding, as a multiple of those when training.
_MORE_OBJECTS = 2


def discover(args: argparse.Namespace) -> None:
    """Run the program.

    Raises:
        UserError: an input or option cannot be used.
        KeyboardInterrupt: what is finished has been written.
    """
    try:
        _discover(args)
    except UserError:
        raise
    except OSError as error:
        raise InputError(
            f"--output {printable(args.output)} cannot be written: {error.strerror or error}. What "
            "is finished is kept; the same command goes on."
        ) from error


def _discover(args: argparse.Namespace) -> None:
    if not 0 <= args.min_score <= 1:
        raise InputError(f"--min-score is {args.min_score}: it must be between 0 and 1.")
    check_output(args.output)
    weights = find_weights(args.weights) if args.weights else ""
    inputs = list_inputs([*args.photos, *args.input], args.output)
    keep_freed_memory()
    own = os.path.join(args.output, WEIGHTS_FILE)
    start_from = ""
    choices: list[str] = []
    if args.train:
        start_from = weights or start_again(args.output)
        weights = ""
    elif not weights and os.path.isfile(own):
        weights = own
        print(f"using {own}, trained by an earlier run (--train trains on)")
        choices = earlier_choices(args.output)
    steps = ["looking at the images", "training", "finding objects"][2 if weights else 0 :]
    progress = Progress(steps, enabled=not args.quiet)
    if not weights:
        weights, choices = _train(args, inputs, start_from, progress)
    _find(args, inputs, weights, choices, progress)


def _train(args, inputs: Inputs, start_from: str, progress: Progress) -> tuple[str, list[str]]:
    """Plan and train; returns the weights and what was chosen."""
    opts = ["SEED", str(args.seed), *args.opts]
    plan = plan_training(
        inputs.files,
        args.output,
        args.time,
        progress,
        base=args.config_file,
        start_from=start_from,
        opts=opts,
        object_size=args.object_size,
        tile=args.tile,
        max_objects=args.max_objects,
    )
    print("chosen, because of what the images look like:", *plan.choices, sep="\n  ")
    progress.number = 0
    return train_weights(plan, args.output, progress, args.time), plan.choices


def _discoverer(args, weights: str) -> Discoverer:
    trained_here = os.path.dirname(os.path.abspath(weights)) == os.path.abspath(args.output)
    discoverer = _load(args, weights, args.max_objects)
    if trained_here and not args.max_objects:
        # Trained on crops of few objects; others may have more.
        discoverer = _load(args, weights, _MORE_OBJECTS * discoverer.max_objects)
    return discoverer


def _load(args, weights: str, max_objects: int) -> Discoverer:
    tile = args.tile or None
    return Discoverer(
        weights,
        config_file=args.config_file,
        opts=args.opts,
        tile=tile,
        max_objects=max_objects,
        min_score=args.min_score,
        batch_size=args.batch_size,
        latents=args.latents,
    )


def _find(args, inputs: Inputs, weights: str, choices: list[str], progress: Progress) -> None:
    """Find the objects in all files and write the results."""
    discoverer = _discoverer(args, weights)
    if args.object_size and not args.tile:
        discoverer.tile = _tile_for(discoverer, args.object_size)
    options = {
        "tile": discoverer.tile,
        "max_objects": discoverer.max_objects,
        "min_score": args.min_score,
        "written": [args.latents, args.crops, args.no_overlays, args.no_labels],
        "config": discoverer.cfg.dump(),
    }
    wanted = Wanted(not args.no_overlays, not args.no_labels, args.crops, args.on_error)
    job = Job(discoverer, inputs, args.output, wanted, options)
    progress.next(len(inputs.files))

    def show(files: int, images: int, objects: int) -> None:
        progress.update(files, f"{objects} objects, {objects / max(1, images):.1f} per image")

    try:
        records = job.run(show)
    except KeyboardInterrupt:
        if job.records:
            write_tables(args.output, job.records, _info(weights, inputs))
        raise
    write_tables(args.output, records, _info(weights, inputs))
    passed_over = {**job.skipped, **inputs.left_out}
    notes = _notes(records, discoverer)
    facts = [
        ("weights", os.path.basename(weights)),
        (
            "tile",
            f"{discoverer.tile:.0f} pixels" if discoverer.tile else "the image's shorter side",
        ),
        ("objects per tile", f"up to {discoverer.max_objects}"),
        ("time", duration(sum(record["seconds"] for record in records))),
    ]
    report = write_report(args.output, records, choices, passed_over, notes, facts)
    objects = sum(len(record["objects"]) for record in records)
    _print_files("skipped", "unreadable files", job.skipped)
    _print_files("left out", "files", inputs.left_out)
    print(*(f"note: {note}" for note in notes), sep="\n", end="\n" if notes else "")
    print(f"{objects} objects in {len(records)} images: see {printable(report)}")


def _tile_for(discoverer: Discoverer, object_size: float) -> float:
    """The tile that shows objects of this diameter at the size that training showed them at."""
    from rmonet_d2.discovery.choices import MODEL_DIAMETER

    return object_size * min(discoverer.model_size) / MODEL_DIAMETER


def _info(weights: str, inputs: Inputs) -> dict[str, Any]:
    return {
        "description": "Objects found without labels by rmonet_d2",
        "weights": os.path.basename(weights),
        "image_root": printable(inputs.root),
    }


def _notes(records: list[dict[str, Any]], discoverer: Discoverer) -> list[str]:
    """What the user must know about the results."""
    notes = []
    doubtful = sum(record["doubtful"] for record in records)
    if doubtful:
        notes.append(
            f"{doubtful} of {len(records)} images are unlike those that the weights were trained "
            "on (their reconstruction error is far larger): do not believe their objects. Train "
            "on these images: leave out --weights."
        )
    tiles = sum(record["tiles"] for record in records)
    full = sum(record["full_tiles"] for record in records)
    if full > tiles / 2:
        notes.append(
            f"{full} of {tiles} tiles use all {discoverer.max_objects} regions and may have more "
            f"objects: --max-objects {2 * discoverer.max_objects} finds them, or a smaller --tile."
        )
    if not any(record["objects"] for record in records):
        notes.append(
            "no object was found. Objects may be much larger or smaller than the model expects "
            "(--object-size PIXELS), training may have been too short (--train --time 60m), or "
            "the images may have no separate objects."
        )
    return notes


def _print_files(verb: str, what: str, files: dict[str, str]) -> None:
    if not files:
        return
    lines = [f"  {name}: {reason}" for name, reason in list(files.items())[:_NAMED]]
    if len(files) > _NAMED:
        lines.append(f"  and {len(files) - _NAMED} more, see the report")
    print(f"{verb} {len(files)} {what}:", *lines, sep="\n")
