"""Move the latents of one object through their range, and edit scenes by their latents.

OUTPUT gets traversal.png (a row per latent), traversal.gif, traversal.html (sliders; one file that
needs no server) and edited scenes: without the object, and with objects of two images exchanged.
"""

import argparse

from rmonet_d2.cli.options import (
    Parser,
    add_config_file,
    add_overrides_option,
    natural_int,
    positive_int,
    run_program,
)

EXAMPLE = """\
    rmonet traverse --weights clevr_rmonet_unet_cpu --output output/traversal \\
        --image datasets/clevr_sample/test/000000.png datasets/clevr_sample/test/000001.png
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        required=True,
        help="checkpoint (.pth), or the name of weights of this project",
    )
    parser.add_argument(
        "--image",
        metavar="FILE",
        nargs="+",
        required=True,
        help="image files; the object comes from the first one, and is exchanged with one of the "
        "second. The objects in all of them determine the ranges of the latents",
    )
    parser.add_argument("--output", metavar="FOLDER", required=True, help="folder for the results")
    add_config_file(parser, help="YAML config (default: config.yaml beside the weights)")
    parser.add_argument(
        "--object",
        type=natural_int,
        default=0,
        help="number of the object; objects are counted from 0 in descending order of score",
    )
    parser.add_argument(
        "--latents", type=positive_int, default=8, help="maximum number of latents to show"
    )
    parser.add_argument(
        "--steps", type=positive_int, default=9, help="number of values of each latent"
    )
    parser.add_argument(
        "--animation", choices=("gif", "webp"), default="gif", help="format of the animation"
    )
    add_overrides_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the pictures and the page."""
    import os

    from rmonet_d2.data.mapper import UnlabelledMapper
    from rmonet_d2.discovery import load_weights
    from rmonet_d2.latents import pictures, scenes

    opts = [*args.opts, "TEST.OUTPUTS", ["latents"]]
    loaded = load_weights(args.weights, args.config_file, opts)
    model = loaded.model
    scenes.decoder_of(model)
    mapper = UnlabelledMapper(loaded.cfg, False)
    found = scenes.find_scenes(model, [mapper({"file_name": name}) for name in args.image])
    span = scenes.latent_range(found)
    scene = found[0]
    component = scene.component(args.object)
    rows = []
    for dim in scenes.most_active(model, scene, component, span, args.latents):
        frames = scenes.traverse(model, scene, component, dim, span, args.steps)
        low, high = span[:, dim].tolist()
        value = float(scene.latents[component, dim])
        rows.append(pictures.Traversal(dim, low, high, value, frames))
    edits = {
        "generated": scenes.render(model, scene.latents[None])[0],
        "without the object": scenes.without(model, scene, component),
    }
    if len(found) > 1 and found[1].objects:
        pair = scenes.exchanged(model, scene, component, found[1], found[1].component(0))
        edits |= dict(zip(("exchanged first", "exchanged second"), pair, strict=True))
    os.makedirs(args.output, exist_ok=True)
    target = os.path.join(args.output, "traversal")
    pictures.write_sheet(f"{target}.png", scene.image, rows)
    pictures.write_animation(f"{target}.{args.animation}", rows)
    title = f"Object {args.object} of {os.path.basename(args.image[0])}"
    pictures.write_page(f"{target}.html", title, scene.image, rows, edits)
    pictures.write_edits(args.output, edits)
    print(f"latents {', '.join(str(row.dim) for row in rows)} of object {args.object}: {target}.*")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
