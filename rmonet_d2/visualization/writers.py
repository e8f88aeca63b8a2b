"""Pictures from Detectron2's event storage as PNG files."""

import os
import re

from detectron2.utils.events import EventWriter, get_event_storage
from detectron2.utils.file_io import PathManager
from PIL import Image

from rmonet_d2.utils.run_log import VISUALIZATION_FOLDER
from rmonet_d2.visualization.drawing import to_image


class PNGWriter(EventWriter):
    """Saves what ``storage.put_image`` stored, as ``visualization/NAME_ITERATION.png``.

    Must come before ``TensorboardXWriter`` in the list of writers: that one empties the storage
    of its pictures. This one leaves them there, and writes none twice.
    """

    def __init__(self, output_dir: str):
        """
        Args:
            output_dir: the folder that gets a folder "visualization" with the first picture.
        """
        self._folder = os.path.join(output_dir, VISUALIZATION_FOLDER)
        self._written: set[tuple[str, int]] = set()

    def write(self) -> None:
        # The storage has no public reader for its pictures; Detectron2's own writers do the same.
        pictures = get_event_storage()._vis_data
        # Pictures that TensorBoard's writer has cleared will not be seen again.
        self._written &= {(name, iteration) for name, _, iteration in pictures}
        for name, picture, iteration in pictures:
            if (name, iteration) in self._written:
                continue
            PathManager.mkdirs(self._folder)
            file_name = f"{re.sub(r'[^0-9A-Za-z_.-]+', '_', name)}_{iteration:07d}.png"
            with PathManager.open(os.path.join(self._folder, file_name), "wb") as file:
                Image.fromarray(to_image(picture)).save(file, format="PNG")
            self._written.add((name, iteration))
