"""Finds objects in many files and writes what it finds as it goes."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rmonet_d2.data.image_reader import UnreadableImageError, read_frames
from rmonet_d2.data.mapper import check_background, check_value_range
from rmonet_d2.discovery import pictures
from rmonet_d2.discovery.discoverer import Discoverer, Findings
from rmonet_d2.discovery.inputs import Inputs
from rmonet_d2.discovery.records import RecordFile, describe_image, fingerprint, stamp_of
from rmonet_d2.utils.errors import InputError

ON_ERROR = ("skip", "stop")
RECORD_FILE = "progress.jsonl"
# Objects per image that the report shows one by one.
_SAMPLES = 4


@dataclass(frozen=True)
class Wanted:
    """Which pictures are written, and what happens to unreadable files ("skip" or "stop")."""

    overlays: bool = True
    labels: bool = True
    crops: bool = False
    on_error: str = "skip"


@dataclass
class Job:
    """Finds the objects of all files; the same job goes on where it was interrupted.

    Attributes:
        skipped: {name: reason} of files that could not be read.
        records: of the images that are done, in the order of the files.
    """

    discoverer: Discoverer
    inputs: Inputs
    output: str
    wanted: Wanted = Wanted()
    options: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)

    def run(self, show: Callable[[int, int, int], None] = lambda *_: None) -> list[dict]:
        """Work through the files.

        Args:
            show: called after each file with (files done, images done, objects found).

        Returns:
            The records of all images, in the order of the files.

        Raises:
            InputError: nothing could be read, or the first unreadable file with on_error "stop".
        """
        run = fingerprint(self.discoverer.loaded.weights, self.options)
        store = RecordFile(os.path.join(self.output, RECORD_FILE), run)
        objects = 0
        try:
            for number, path in enumerate(self.inputs.files, 1):
                found = self._file(path, store)
                self.records += found
                objects += sum(len(record["objects"]) for record in found)
                show(number, len(self.records), objects)
        finally:
            store.close()
        if not self.records:
            first = next(iter(self.skipped.items()))
            raise InputError(
                f"none of the {len(self.inputs.files)} files is a readable image "
                f"({first[0]}: {first[1]})."
            )
        return self.records

    def _file(self, path: str, store: RecordFile) -> list[dict]:
        """The records of a file's frames."""
        name = self.inputs.name(path)
        records: list[dict] = []
        try:
            stamp = stamp_of(path) if os.path.exists(path) else []
            known = self._finished(name, stamp, store)
            if known is not None:
                return known
            config = self.discoverer.cfg.INPUT
            frames = read_frames(
                path,
                value_range=check_value_range(config.VALUE_RANGE),
                background=check_background(config.ALPHA_BACKGROUND),
            )
            # A frame is recorded when the next one is there: only then is it known whether the
            # file is a sequence.
            for frame, image in enumerate(frames):
                records.append(self._image(name, frame, image, stamp))
                if frame:
                    self._name_as_frame(records[-2])
                    store.add(records[-2])
        except UnreadableImageError as error:
            if self.wanted.on_error == "stop":
                raise InputError(f"{error}.") from error
            after = f" after frame {len(records) - 1}" if records else ""
            self.skipped[name] = error.reason + after
        if records:
            if len(records) > 1:
                self._name_as_frame(records[-1])
            records[-1]["last"] = True
            store.add(records[-1])
        return records

    def _finished(self, name: str, stamp: list[int], store: RecordFile) -> list[dict] | None:
        """The records of a file that an earlier run has finished, or None."""
        if store.is_done(name, stamp):
            return [store.records[name]]
        found: list[dict] = []
        while store.is_done(f"{name}#{len(found)}", stamp):
            found.append(store.records[f"{name}#{len(found)}"])
            if found[-1].get("last"):
                return found
        return None

    @staticmethod
    def _name_as_frame(record: dict) -> None:
        record["frames"] = True
        record["key"] = f"{record['file']}#{record['frame']}"

    def _image(self, name: str, frame: int, image, stamp) -> dict:
        start = time.perf_counter()
        findings = self.discoverer.find(image)
        record = {
            "key": name,
            "file": name,
            "frame": frame,
            "frames": False,
            "stamp": stamp,
            **describe_image(findings, image),
        }
        best = findings.objects[:_SAMPLES]
        record["samples"] = [pictures.thumbnail(image, one) for one in best]
        self._draw(name + (f"#{frame}" if frame else ""), image, findings)
        record["seconds"] = round(time.perf_counter() - start, 3)
        return record

    def _draw(self, name: str, image, findings: Findings) -> None:
        if self.wanted.overlays:
            overlay = pictures.draw_overlay(image, findings.objects)
            pictures.save(overlay, os.path.join(self.output, overlay_name(name)))
        if self.wanted.labels:
            labels = pictures.label_image(findings.size, findings.objects)
            pictures.save(labels, os.path.join(self.output, "labels", f"{name}.png"))
        if self.wanted.crops:
            for number, one in enumerate(findings.objects, 1):
                crop = pictures.object_crop(image, one)
                pictures.save(crop, os.path.join(self.output, "crops", name, f"{number:04d}.png"))


def overlay_name(name: str) -> str:
    """Where the overlay of an image lies in the output folder; frame 0 has the file's name."""
    return os.path.join("overlays", f"{name.removesuffix('#0')}.jpg")
