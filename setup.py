"""Package metadata of rmonet_d2. `make setup` installs the exact versions in requirements.lock.

Detectron2 (0.6 or newer) is also required, but is not in install_requires, because the package
index does not have it under its own name, so pip could never satisfy the requirement. Install
upstream's main branch, or run tools/install_detectron2.py.

OpenCV, which Detectron2 and this package import, is an extra, because two packages provide it and
only one of them should be installed: `rmonet_d2[opencv]` is opencv-python, and
`rmonet_d2[headless]` is opencv-python-headless for machines without display libraries, which the
lock file uses.

The pseudo labels' loops over pixels are compiled if there is a C++ compiler. Without one, the
package works as well, but computes pseudo labels on a CPU with slower torch operations.

`rmonet_d2[render]` adds Blender's module bpy, which `rmonet render-clevr` needs. Each version of
bpy needs one version of Python: 5.0 and 4.x need exactly 3.11.
"""

import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Folders that are copied into a wheel for rmonet_d2.model_zoo; a checkout uses the originals.
MODEL_ZOO = ("configs", "weights")


class BuildWithModelZoo(build_py):
    """Builds the package, with copies of ``configs/`` and ``weights/`` in ``model_zoo/``."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for name in MODEL_ZOO:
            target = Path(self.build_lib, "rmonet_d2", "model_zoo", name)
            shutil.copytree(ROOT / name, target, dirs_exist_ok=True)


# A plain shared library, whose C functions rmonet_d2/ops/compiled.py calls through ctypes.
MASK_BOXES = Extension(
    "rmonet_d2._mask_boxes",
    ["rmonet_d2/csrc/mask_boxes.cpp"],
    language="c++",
    extra_compile_args=["-O3", "-std=c++17", "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,
)

setup(
    name="rmonet_d2",
    version="0.1.0",
    description="R-MONet: unsupervised object discovery with regions, on Detectron2",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords="object discovery, unsupervised learning, scene decomposition, detectron2",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=find_packages(include=["rmonet_d2", "rmonet_d2.*"]),
    package_data={"rmonet_d2": ["py.typed", "**/*.html", "**/*.css", "**/*.js"]},
    entry_points={"console_scripts": ["rmonet = rmonet_d2.cli.main:main"]},
    cmdclass={"build_py": BuildWithModelZoo},
    ext_modules=[MASK_BOXES],
    python_requires=">=3.10",  # tested: 3.10, 3.11, 3.12
    install_requires=[
        "torch>=2.3",  # tested: 2.11.0 (the fixed Detectron2 0.6 needs torch.amp.GradScaler, 2.3)
        "torchvision>=0.18",  # tested: 0.26.0; each torchvision works with one torch only
        "numpy>=1.24",  # tested: 2.2, 2.4
        "scikit-image>=0.22",  # tested: 0.25, 0.26
        "scipy>=1.10",
        "tifffile>=2022.8.12",
        "pillow>=9.1",  # tested: 12, 13
        "pycocotools>=2.0.7",
        "matplotlib>=3.7",
        "fvcore>=0.1.5.post20221221,<0.1.6",
        "iopath>=0.1.9",
        "pyyaml>=5.1",
        "tensorboard>=2.12",
        "tqdm>=4.60",
        "lazy_loader>=0.3",
        "jinja2>=3.1",
        "tabulate>=0.9",
        "filelock>=3.12",
        # For the TFRecords of Multi-Object Datasets: fast GZIP, and the records' checksums.
        "isal>=1.6",  # tested: 1.9
        "google-crc32c>=1.5",  # tested: 1.9
    ],
    extras_require={
        "opencv": ["opencv-python>=4.8"],
        "headless": ["opencv-python-headless>=4.8"],
        "render": ["bpy>=5.0,<5.1"],  # tested: 5.0.1; other versions give slightly other pictures
        "export": ["onnx>=1.16", "onnxruntime>=1.18"],  # tested: 1.23, 1.32
        "latents": ["scikit-learn>=1.3"],  # for `rmonet probe`
        "test": [
            "pytest>=7.4",
            "pytest-xdist>=3.5",
            "scikit-learn>=1.3",
            "protobuf>=4.22",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "hypothesis>=6.100",
            "safetensors>=0.4",
        ],
        "lint": ["ruff>=0.6", "mypy>=1.15"],
    },
)
