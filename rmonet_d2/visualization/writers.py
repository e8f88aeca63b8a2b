"""Saves the pictures in Detectron2's event storage as PNG files."""

import os
import re

from detectron2.utils.events import EventWriter, get_event_storage
from detectron2.utils.file_io import PathManager
from PIL import Image

from rmonet_d2.utils.run_log import VISUALIZATION_FOLDER
from rmonet_d2.visualization.drawing import to_image


class PNGWriter(EventWriter):
    """Saves the pictures of ``storage.put_image`` as ``visualization/NAME_ITERATION.png``.

    Must precede ``TensorboardXWriter`` in the list of writers, which removes the pictures from the
    storage. This writer leaves them there, and writes each of them only once.
    """

    def __init__(self, output_dir: str):
        """
        Args:
            output_dir: folder in which "visualization" is created for the first picture.
        """
        self._folder = os.path.join(output_dir, VISUALIZATION_FOLDER)
        self._written: set[tuple[str, int]] = set()

    def write(self) -> None:
        # The storage has no public way to read pictures; Detectron2's own writers do the same.
        pictures = get_event_storage()._vis_data
        # Forget pictures that TensorBoard's writer has removed; they will not reappear.
        self._written &= {(name, iteration) for name, _, iteration in pictures}
        for name, picture, iteration in pictures:
            if (name, iteration) in self._written:
                continue
            PathManager.mkdirs(self._folder)
            file_name = f"{re.sub(r'[^0-9A-Za-z_.-]+', '_', name)}_{iteration:07d}.png"
            with PathManager.open(os.path.join(self._folder, file_name), "wb") as file:
                Image.fromarray(to_image(picture)).save(file, format="PNG")
            self._written.add((name, iteration))
