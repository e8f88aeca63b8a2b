"""Schemas of the files of Multi-Object Datasets, for ``tfrecord.read_examples``.

Source of the formats: Kabra et al., "Multi-Object Datasets" (2019), the readers of the repository
google-deepmind/multi_object_datasets. In all of these files mask 0 is the background (Objects
Room: the first four), masks are 0 or 255, and ``visibility`` tells which entities exist. It
counts the background too: a scene of 6 objects has a visibility that sums to 7.

Sizes below are the numbers of entities stored, background and padding included.
"""

from rmonet_d2.datasets.convert.tf_example import Feature, Schema


def _floats(entities: int, *names: str) -> dict[str, Feature]:
    return {name: Feature((entities,), "float") for name in names}


def _codes(entities: int, *names: str) -> dict[str, Feature]:
    return {name: Feature((entities,)) for name in names}


CLEVR_WITH_MASKS: Schema = {
    "image": Feature((240, 320, 3)),
    "mask": Feature((11, 240, 320, 1)),
    **_floats(11, "x", "y", "z", "rotation", "visibility"),
    "pixel_coords": Feature((11, 3), "float"),
    **_codes(11, "size", "material", "shape", "color"),
}
MULTI_DSPRITES_COLORED_ON_GRAYSCALE: Schema = {
    "image": Feature((64, 64, 3)),
    "mask": Feature((64, 64, 6, 1)),
    **_floats(6, "x", "y", "shape", "visibility", "orientation", "scale"),
    "color": Feature((6, 3), "float"),
}
TETROMINOES: Schema = {
    "image": Feature((35, 35, 3)),
    "mask": Feature((4, 35, 35, 1)),
    **_floats(4, "x", "y", "shape", "visibility"),
    "color": Feature((4, 3), "float"),
}
# The training file; empty_room stores 4 entities, six_objects and identical_color 10.
OBJECTS_ROOM: Schema = {
    "image": Feature((64, 64, 3)),
    "mask": Feature((7, 64, 64, 1)),
}

# Names of CLEVR's integer codes; 0 is the background and padding. The repository does not list
# them. They follow from record 0, whose numbers are printed in its issue 9 and whose picture
# others have published: all of size, material, shape and colours 1 to 5 can be read off it. Codes
# are numbered by first appearance in the file, so record 1 gives colours 6 and 7, and 8 is left.
CLEVR_CODES = {
    "shape": ("", "sphere", "cylinder", "cube"),
    "size": ("", "large", "small"),
    "material": ("", "rubber", "metal"),
    "color": ("", "red", "cyan", "green", "blue", "brown", "gray", "purple", "yellow"),
}
