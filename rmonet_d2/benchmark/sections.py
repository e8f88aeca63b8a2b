"""The sections of the benchmark; each measures something, prints a table and returns its numbers.

``args`` are the parsed arguments of :mod:`rmonet_d2.cli.benchmark`. bfloat16 is left out where the
processor only emulates it, unless ``args.emulated`` asks for it: a step then takes many times
longer than in float32, and nobody would train that way.
"""

import json
import tempfile
from pathlib import Path

import torch

from rmonet_d2.benchmark import machine, training
from rmonet_d2.benchmark.data import images_per_second, write_packed, write_photos
from rmonet_d2.benchmark.gpu import measure_system
from rmonet_d2.benchmark.growth import MEMORY, SECONDS, VALUES, growth_figure, measure_growth
from rmonet_d2.benchmark.parts import parts_of_step
from rmonet_d2.benchmark.peer_code import compare_with_peers
from rmonet_d2.benchmark.peers import time_inference
from rmonet_d2.benchmark.pseudo_labels import compare_hooks
from rmonet_d2.benchmark.windows import compare_windows, inference_over_components
from rmonet_d2.comparison.curves import render
from rmonet_d2.comparison.systems import SYSTEMS
from rmonet_d2.utils.memory import keep_freed_memory
from rmonet_d2.utils.precision import emulates_bfloat16
from rmonet_d2.utils.tables import table

PLAIN = "plain, fp32"
HOOK_IMAGES = 64
LOADER_SECONDS = 3.0
LEFT_OUT = (
    "bfloat16 is left out: this processor has no instructions for it and would emulate it, many "
    "times slower than float32 (--emulated measures it nevertheless)"
)


def with_bfloat16(args) -> bool:
    """Return whether the sections measure bfloat16."""
    return args.emulated or not emulates_bfloat16(args.device)


def _best(args) -> tuple[str, list]:
    """Name and overrides of the variant that the sections about one step measure."""
    name = training.best_variant(with_bfloat16(args))
    return name, training.VARIANTS[name]


def compare(args, is_training: bool) -> dict:
    variants = training.variants(with_bfloat16(args))
    results = training.compare(args.config_file, args.opts, variants, args.repeats, is_training)
    plain = results[PLAIN]["seconds"]
    for result in results.values():
        result["times_plain"] = plain / result["seconds"]
    name = "training step" if is_training else "inference"
    print(f"\n## {name.capitalize()}, batch of {args.batch_size}\n")
    header = [name, "s", "images/s", "times as fast as plain"]
    print(table(header, ([key, *result.values()] for key, result in results.items())))
    return results


def step(args) -> dict:
    return compare(args, True)


def inference(args) -> dict:
    return compare(args, False)


def memory(args) -> dict:
    results = {
        name: training.peak_memory(args.config_file, [*args.opts, *training.VARIANTS[name]])
        for name in (PLAIN, _best(args)[0])
    }
    print("\n## Peak memory that steps add, MiB\n")
    rows = ([name, v["training"], v["inference"]] for name, v in results.items())
    print(table(["", "training", "inference"], rows))
    return results


def parts(args) -> dict:
    best, overrides = _best(args)
    cfg = training.config_of(args.config_file, [*args.opts, *overrides])
    found = {}
    for name, is_training in (("a training step", True), ("inference", False)):
        rows = parts_of_step(cfg, args.repeats, is_training)
        print(f"\n## Where time and memory of {name} go ({best})\n")
        print(table(list(rows[0]), (list(row.values()) for row in rows)))
        found[name] = rows
    return found


def pseudo_labels(args) -> list[dict]:
    device = torch.device(args.device)
    rows = []
    for size, components, cumulative in ((64, 6, False), (64, 6, True), (128, 7, False)):
        options = {"min_size": 3, "cumulative": cumulative}
        rows.append(
            compare_hooks(HOOK_IMAGES, components, size, args.repeats, device, **options)
            | {"cumulative": cumulative}
        )
    print("\n## Pseudo labels: compiled, in torch operations, and with scikit-image\n")
    header = ["masks", "cumulative", *(f"{name}, ms" for name in rows[0]["seconds"])]
    header += [*(f"times as fast, {name}" for name in rows[0]["ratio"]), "equal boxes"]
    print(table(header, map(_pseudo_label_row, rows)))
    return rows


def _pseudo_label_row(row: dict) -> list:
    milliseconds = [1e3 * seconds for seconds in row["seconds"].values()]
    shape = "x".join(map(str, row["shape"]))
    return [shape, row["cumulative"], *milliseconds, *row["ratio"].values(), row["equal_boxes"]]


def data(args) -> list[dict]:
    best, overrides = _best(args)
    run = {best: overrides}
    step = training.compare(args.config_file, args.opts, run, args.repeats, True)[best]
    cfg = training.config_of(args.config_file, args.opts)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        packed = write_packed(Path(folder), cfg.INPUT.IMAGE_SIZE[0], 256)
        photos = write_photos(Path(folder) / "photos", 64)
        for what, name, workers in (
            ("packed images", packed, 0),
            ("640x480 JPEG files", photos, 0),
            ("640x480 JPEG files", photos, 2),
        ):
            rate = images_per_second(cfg, name, workers, LOADER_SECONDS)
            rows.append(
                {
                    "images": what,
                    "workers": workers,
                    "loader, images/s": rate,
                    "step, images/s": step["images_per_s"],
                    "times the step": rate / step["images_per_s"],
                }
            )
    print(f"\n## Loading, beside a training step ({best})\n")
    print(table(list(rows[0]), (list(row.values()) for row in rows)))
    return rows


def growth(args) -> dict:
    best, overrides = _best(args)
    opts = [*args.opts, *overrides]
    found = measure_growth(args.config_file, opts, VALUES, args.repeats)
    print(f"\n## Growth of a training step ({best})\n")
    header = ["", "value", "ms", "MiB", "ms ~ (pixels x K)^", "MiB ~ (pixels x K)^"]
    rows = []
    for axis, result in found.items():
        for point in result["points"]:
            rows.append([axis, point["value"], 1e3 * point[SECONDS], point[MEMORY], "", ""])
        rows[-1][4:] = [result["exponents"][cost] for cost in (SECONDS, MEMORY)]
    print(table(header, rows))
    if args.figure:
        Path(args.figure).write_bytes(render(growth_figure(found), Path(args.figure).suffix[1:]))
    return found


def windows(args) -> dict:
    best, overrides = _best(args)
    opts = [*args.opts, *overrides]
    found = compare_windows(args.config_file, opts, args.repeats)
    for kind, seconds in found.items():
        base = seconds["whole image"]
        rows = [[name, value, base / value] for name, value in seconds.items()]
        print(f"\n## Windows around the regions, {kind}, batch of {args.batch_size} ({best})\n")
        print(table([kind, "s", "times as fast"], rows))
    growth = inference_over_components(args.config_file, opts, args.repeats)
    counts = list(next(iter(growth.values()))["seconds"])
    print("\n## Inference of the same scenes over K, ms\n")
    header = ["", *(f"K = {k}" for k in counts), "ms ~ K^"]
    rows = [
        [name, *(1e3 * s for s in result["seconds"].values()), result["exponent"]]
        for name, result in growth.items()
    ]
    print(table(header, rows))
    return {**found, "over K": growth}


def tables_of_all_systems(opts: list) -> dict[str, tuple[str, list]]:
    """Return {title: (config file, overrides)} of the named configs for Multi-dSprites."""
    return {
        system.title: (file_name, [*overrides, *opts])
        for system in SYSTEMS.values()
        for file_name, overrides in [system.config("multi_dsprites", full=True)]
    }


def models(args) -> list[dict]:
    best, overrides = _best(args)
    configs = tables_of_all_systems([*args.opts, *overrides])
    steps = {title: training.Step(training.config_of(*c)) for title, c in configs.items()}
    train = training.time_steps(steps, args.repeats, True)
    infer = training.time_steps(steps, args.repeats, False)
    memory = {title: training.peak_memory(*config) for title, config in configs.items()}
    rows = [
        {
            "system": title,
            "parameters, million": training.count_parameters(steps[title]) / 1e6,
            "training images/s": train[title]["images_per_s"],
            "inference images/s": infer[title]["images_per_s"],
            "training memory, MiB": memory[title]["training"],
            "inference memory, MiB": memory[title]["inference"],
        }
        for title in configs
    ]
    what = f"the named configs for Multi-dSprites, batch of {args.batch_size} ({best})"
    print(f"\n## All systems, {what}\n")
    print(table(list(rows[0]), (list(row.values()) for row in rows)))
    return rows


def gpu(args) -> dict[str, dict]:
    on_gpu = args.device != "cpu"
    found = {
        title: measure_system(*config, args.repeats, with_compiled=on_gpu)
        for title, config in tables_of_all_systems(args.opts).items()
    }
    header = list(next(iter(found.values())))
    rows = [
        [title, *("" if row[name] is None else row[name] for name in header)]
        for title, row in found.items()
    ]
    print(f"\n## All systems on {args.device}, images/s, batch of {args.batch_size}\n")
    print(table(["system", *header], rows))
    return found


def precision(args) -> list[dict]:
    variants = training.variants(with_bfloat16(args))
    del variants[PLAIN]
    rows = []
    for title, (file_name, opts) in tables_of_all_systems(args.opts).items():
        timings = training.compare(file_name, opts, variants, args.repeats, True)
        base = timings["fp32"]["seconds"]
        times = {name: base / timing["seconds"] for name, timing in timings.items()}
        rows.append({"system": title, "fp32, s": base, **times})
    print(f"\n## A training step, batch of {args.batch_size}: times as fast as fp32\n")
    print(table(list(rows[0]), (list(row.values()) for row in rows)))
    return rows


def peers(args) -> dict:
    systems = [SYSTEMS[name] for name in ("rmonet_unet", "monet", "iodine", "space")]
    configs = {system.title: system.config("clevr", full=True) for system in systems}
    file_name, overrides = configs[systems[0].title]
    without = [*overrides, "TEST.OUTPUTS", []]
    configs[f"{systems[0].title}, boxes and masks alone"] = (file_name, without)
    rates = time_inference(configs, args.opts, args.repeats, with_bfloat16(args))
    print(f"\n## Inference at 128x128, the named configs for CLEVR, batch of {args.batch_size}\n")
    rows = ([title, rate["fp32"], rate.get("bf16", "")] for title, rate in rates.items())
    print(table(["images/s", "fp32", "bf16"], rows))
    if not args.peer_code:
        return rates
    found = compare_with_peers(args.peer_code, args.opts, args.repeats)
    print(f"\n## The public codes beside ours, CPU, float32, batch of {args.batch_size}\n")
    print(table(list(found[0]), (list(row.values()) for row in found)))
    return {"Mask R-CNN": rates, "public codes": found}


def matmul(args) -> list[dict]:
    device = torch.device(args.device)
    size = machine.matmul_size(device)
    rates = machine.matmul_rates(device, size, args.repeats, with_bfloat16(args))
    rows = []
    for dtype in rates:
        name = f"{dtype}, channels-last"
        run = {name: training.VARIANTS[name]}
        seconds = training.compare(args.config_file, args.opts, run, args.repeats, True)[name]
        cfg = training.config_of(args.config_file, [*args.opts, *training.VARIANTS[name]])
        gflop = training.step_gflop(training.Step(cfg))
        rate = gflop / seconds["seconds"]
        rows.append([name, gflop, rate, rates[dtype], 100 * rate / rates[dtype]])
    print("\n## Share of the matrix product's rate\n")
    header = ["training step", "GFLOP/step", "GFLOP/s", f"{size} x {size} product, GFLOP/s", "%"]
    print(table(header, rows))
    return [dict(zip(header, row, strict=True)) for row in rows]


# The hook comes first, because its many small operations are a quarter slower in a process that has
# already trained models.
SECTIONS = {
    "pseudo_labels": pseudo_labels,
    "step": step,
    "inference": inference,
    "memory": memory,
    "parts": parts,
    "data": data,
    "growth": growth,
    "windows": windows,
    "models": models,
    "precision": precision,
    "gpu": gpu,
    "peers": peers,
    "matmul": matmul,
}


def default_sections(device: str) -> list[str]:
    """Return what runs if no section is named: on a GPU, the table of all systems."""
    return ["gpu"] if device.startswith("cuda") else [name for name in SECTIONS if name != "gpu"]


def run_sections(args) -> None:
    """Run the requested sections, or all of them, and write the file of ``--json``."""
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.opts += ["SOLVER.IMS_PER_BATCH", args.batch_size, "MODEL.DEVICE", args.device]
    results = {"machine": machine.describe(torch.device(args.device)), "config": args.config_file}
    print(", ".join(f"{key}: {value}" for key, value in results["machine"].items()))
    print(f"config: {args.config_file}")
    if not with_bfloat16(args):
        print(LEFT_OUT)
    if args.device == "cpu":
        keep_freed_memory()
    for name in args.sections or default_sections(args.device):
        results[name] = SECTIONS[name](args)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)
