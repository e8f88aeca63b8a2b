"""Schemas of the files of Multi-Object Datasets, for ``tfrecord.read_examples``.

The formats are those of the readers in the repository google-deepmind/multi_object_datasets (Kabra
et al., "Multi-Object Datasets", 2019). In all of these files, mask 0 is the background (in Objects
Room: the first four masks), masks are 0 or 255, and ``visibility`` tells which entities exist. It
includes the background, so the visibility of a scene with 6 objects sums to 7.

The sizes below are the numbers of stored entities, including background and padding.
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
# The training file. The file empty_room has 4 entities; six_objects and identical_color have 10.
OBJECTS_ROOM: Schema = {
    "image": Feature((64, 64, 3)),
    "mask": Feature((7, 64, 64, 1)),
}

# Names of CLEVR's integer codes; 0 is the background and padding. The repository does not list the
# names. They follow from record 0, whose numbers are printed in issue 9 of the repository and whose
# picture others have published: it shows all sizes, materials and shapes, and colors 1 to 5. Codes
# are numbered by first appearance in the file, so record 1 gives colors 6 and 7, which leaves 8.
CLEVR_CODES = {
    "shape": ("", "sphere", "cylinder", "cube"),
    "size": ("", "large", "small"),
    "material": ("", "rubber", "metal"),
    "color": ("", "red", "cyan", "green", "blue", "brown", "gray", "purple", "yellow"),
}
