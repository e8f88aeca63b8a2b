"""Renders CLEVR scenes with Blender's path tracer Cycles; the only module that needs ``bpy``.

Everything is created in code: meshes from ``clevr_shapes``, materials, a floor, three area lamps
and a sun. Camera and lamps have the same positions as in CLEVR. The power of the lamps and the
materials were fitted to CLEVR's own pictures, which were also rendered with Cycles. As in CLEVR,
colors are linear light intensities.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rmonet_d2.datasets.generate.clevr_scenes import (
    CAMERA,
    COLORS,
    MATERIALS,
    Scene,
    floor_directions,
)
from rmonet_d2.datasets.generate.clevr_shapes import (
    CROP_LEFT,
    CROP_SIDE,
    CROP_TOP,
    FOCAL,
    FULL_HEIGHT,
    FULL_WIDTH,
    SHAPES,
    camera_axes,
    solid,
)
from rmonet_d2.utils.errors import UserError

# Power in watts, color and side of the square lamps; strength of the sun in watts per square meter.
LAMP_POWER = {"key": 65.0, "fill": 14.0, "back": 38.0}
LAMP_COLOR = {"key": (1.0, 0.932, 0.817), "fill": (0.762, 0.818, 1.0), "back": (1.0, 1.0, 1.0)}
LAMP_SIDE = {"key": 0.5, "fill": 0.5, "back": 1.0}
SUN_STRENGTH = 0.54
SUN_PLACE = (11.66, -6.63, 25.8)
# Behind the scene, the floor bends up into a wall, which is visible in reflections only.
FLOOR_GRAY = 0.8
FLOOR_WIDTH = 120.0
WALL_PLACE, WALL_BEND, WALL_HEIGHT = 18.0, 12.0, 26.0
# Factor on a material's color.
REFLECTED_SHARE = {"rubber": 0.92, "metal": 0.95}
# Metal reflects this fraction of the light sharply, and the rest blurred.
METAL_SHARP_SHARE = 0.65
METAL_ROUGHNESS = (0.13, 0.45)


class BlenderMissingError(UserError, ImportError):
    """``bpy`` cannot be imported; the message says how to install it."""


def import_bpy() -> Any:
    """Import the module ``bpy``.

    Raises:
        BlenderMissingError: it is not installed, or does not run on this machine.
    """
    if "bpy" not in sys.modules:
        # The child of a process that has imported bpy inherits the path to Blender's scripts, where
        # a package of the same name hides the real one.
        sys.path[:] = [folder for folder in sys.path if not Path(folder, "addon_utils.py").exists()]
    try:
        import bpy
    except ImportError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BlenderMissingError(
            f"rendering needs Blender's module bpy ({error}): pip install rmonet_d2[render]. Each "
            f"version of bpy needs one version of Python (5.0 needs Python 3.11; this is {version})"
        ) from None
    return bpy


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard the output of Blender's C code, which would disturb the progress bar."""
    sys.stdout.flush()
    saved = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        # Flush C's own buffer, which Python's flush does not cover.
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved, 1)
        os.close(nowhere)
        os.close(saved)


class SceneRenderer:
    """Renders scenes one after the other, and reuses meshes and materials.

    Args:
        size: side of the square pictures in pixels.
        samples: rays per pixel; OpenImageDenoise removes the remaining noise.
        threads: number of threads of the renderer.

    Raises:
        BlenderMissingError: see ``import_bpy``.
    """

    def __init__(self, size: int, samples: int, threads: int = 1) -> None:
        self.bpy = import_bpy()
        self.size = size
        with _quiet():
            self._set_up(samples, threads)

    def _set_up(self, samples: int, threads: int) -> None:
        self.bpy.ops.wm.read_factory_settings(use_empty=True)
        self.scene = self.bpy.context.scene
        self._set_up_render(samples, threads)
        self._set_up_picture()
        self.meshes = {shape: self._mesh(shape) for shape in SHAPES}
        self.materials = {
            (kind, color): self._material(kind, color) for kind in MATERIALS for color in COLORS
        }
        self._add_floor_and_sun()
        self.camera = self._add("camera", self._camera_data())
        self.lamps = {name: self._add(name, self._lamp_data(name)) for name in LAMP_POWER}
        self.scene.camera = self.camera

    def _add(self, name: str, data: Any) -> Any:
        item = self.bpy.data.objects.new(name, data)
        self.scene.collection.objects.link(item)
        return item

    def _set_up_render(self, samples: int, threads: int) -> None:
        render, cycles = self.scene.render, self.scene.cycles
        render.engine = "CYCLES"
        render.threads_mode = "FIXED"
        render.threads = threads
        cycles.device = "CPU"
        cycles.samples = samples
        cycles.use_adaptive_sampling = False
        cycles.use_denoising = True
        cycles.denoiser = "OPENIMAGEDENOISE"
        # As good as ACCURATE here, and the whole picture takes only 0.6 of the time.
        cycles.denoising_prefilter = "FAST"
        cycles.blur_glossy = 2.0
        cycles.max_bounces = 8
        cycles.caustics_reflective = True
        cycles.caustics_refractive = False

    def _set_up_picture(self) -> None:
        render, view = self.scene.render, self.scene.view_settings
        render.resolution_x = render.resolution_y = self.size
        render.resolution_percentage = 100
        render.image_settings.file_format = "PNG"
        render.image_settings.color_mode = "RGB"
        render.image_settings.color_depth = "8"
        render.image_settings.compression = 0
        render.dither_intensity = 0.0
        view.view_transform = "Standard"
        view.look = "None"
        # Without a world, all light comes from the lamps.
        self.scene.world = None

    def _mesh(self, shape: str) -> Any:
        form = solid(shape)
        mesh = self.bpy.data.meshes.new(shape)
        mesh.from_pydata(form.vertices.tolist(), [], [list(face) for face in form.faces])
        mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
        mesh.normals_split_custom_set_from_vertices(form.normals.tolist())
        # An empty slot lets objects that share this mesh have different materials.
        mesh.materials.append(None)
        return mesh

    def _shader(self, name: str, **inputs: Any) -> Any:
        """Create a material with one Principled BSDF with the given inputs."""
        material = self.bpy.data.materials.new(name)
        if material.node_tree is None:
            material.use_nodes = True
        node = next(n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
        for key, value in inputs.items():
            node.inputs[key.replace("_", " ").title().replace("Ior", "IOR")].default_value = value
        return material

    def _material(self, kind: str, color: str) -> Any:
        base = (*(REFLECTED_SHARE[kind] * c / 255 for c in COLORS[color]), 1.0)
        if kind == "rubber":
            return self._shader(
                f"rubber {color}", base_color=base, roughness=0.7, specular_ior_level=0.3
            )
        sharp, blurred = METAL_ROUGHNESS
        material = self._shader(f"metal {color}", base_color=base, metallic=1.0, roughness=sharp)
        tree = material.node_tree
        first = next(n for n in tree.nodes if n.type == "BSDF_PRINCIPLED")
        second = tree.nodes.new("ShaderNodeBsdfPrincipled")
        second.inputs["Base Color"].default_value = base
        second.inputs["Metallic"].default_value = 1.0
        second.inputs["Roughness"].default_value = blurred
        mix = tree.nodes.new("ShaderNodeMixShader")
        mix.inputs["Fac"].default_value = 1 - METAL_SHARP_SHARE
        tree.links.new(first.outputs[0], mix.inputs[1])
        tree.links.new(second.outputs[0], mix.inputs[2])
        output = next(n for n in tree.nodes if n.type == "OUTPUT_MATERIAL")
        tree.links.new(mix.outputs[0], output.inputs["Surface"])
        return material

    def _add_floor_and_sun(self) -> None:
        angle = np.linspace(0, np.pi / 2, 17)
        along = np.concatenate([[-60.0], WALL_PLACE + WALL_BEND * np.sin(angle)])
        height = np.concatenate([[0.0], WALL_BEND * (1 - np.cos(angle))])
        along, height = np.append(along, along[-1]), np.append(height, WALL_HEIGHT)
        away, right = floor_directions(CAMERA)[::-1]
        corners = []
        for side in (-FLOOR_WIDTH / 2, FLOOR_WIDTH / 2):
            place = along[:, None] * away + side * right
            corners.extend(np.column_stack([place, height]).tolist())
        count = len(along)
        faces = [[i, i + count, i + count + 1, i + 1] for i in range(count - 1)]
        mesh = self.bpy.data.meshes.new("floor")
        mesh.from_pydata(corners, [], faces)
        gray = (FLOOR_GRAY, FLOOR_GRAY, FLOOR_GRAY, 1.0)
        mesh.materials.append(
            self._shader("floor", base_color=gray, roughness=1.0, specular_ior_level=0.0)
        )
        self._add("floor", mesh)
        data = self.bpy.data.lights.new("sun", "SUN")
        data.energy = SUN_STRENGTH
        data.angle = 0.2
        self._aim(self._add("sun", data), SUN_PLACE)

    def _camera_data(self) -> Any:
        data = self.bpy.data.cameras.new("camera")
        data.sensor_fit = "HORIZONTAL"
        data.sensor_width = 1.0
        data.lens = FOCAL * FULL_WIDTH / CROP_SIDE
        # Offset of the crop's center from the center of the full picture, in sides of the crop.
        data.shift_x = (CROP_LEFT + CROP_SIDE / 2 - FULL_WIDTH / 2) / CROP_SIDE
        data.shift_y = (FULL_HEIGHT / 2 - CROP_TOP - CROP_SIDE / 2) / CROP_SIDE
        return data

    def _lamp_data(self, name: str) -> Any:
        data = self.bpy.data.lights.new(name, "AREA")
        data.energy = LAMP_POWER[name]
        data.color = LAMP_COLOR[name]
        data.shape = "SQUARE"
        data.size = LAMP_SIDE[name]
        return data

    def _aim(self, item: Any, place: tuple[float, ...]) -> None:
        """Move a camera or lamp to a place and point it at the origin."""
        right, up, forward = camera_axes(np.array(place))
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([right, up, -forward], axis=1)
        matrix[:3, 3] = place
        # Blender expects matrices column by column.
        item.matrix_world = matrix.T.tolist()

    def _add_objects(self, scene: Scene) -> list[Any]:
        items = []
        for number, thing in enumerate(scene.objects):
            item = self._add(f"object {number}", self.meshes[thing.shape])
            placed = thing.placed()
            item.location = placed.centre
            item.scale = (placed.scale,) * 3
            item.rotation_euler = (0.0, 0.0, np.deg2rad(placed.rotation))
            item.material_slots[0].link = "OBJECT"
            item.material_slots[0].material = self.materials[thing.material, thing.color]
            items.append(item)
        return items

    def _render(self) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            self.scene.render.filepath = str(Path(folder, "picture.png"))
            with _quiet():
                self.bpy.ops.render.render(write_still=True)
            picture = cv2.imread(self.scene.render.filepath, cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise RuntimeError("Blender wrote no picture that OpenCV can read")
        return np.ascontiguousarray(picture[..., ::-1])

    def render(self, scene: Scene) -> np.ndarray:
        """Render a scene. Its picture does not depend on what was rendered before.

        Returns:
            (S, S, 3) uint8 RGB.
        """
        self._aim(self.camera, scene.camera)
        for name, place in scene.lamps.items():
            self._aim(self.lamps[name], place)
        self.scene.cycles.seed = scene.noise_seed
        items = self._add_objects(scene)
        try:
            return self._render()
        finally:
            for item in items:
                self.bpy.data.objects.remove(item)
