"""`clipsr-eval image`: what a model says of single images."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, parse_labels, positive
from clipsr_training._cli.eval import options
from clipsr_training._files import make_output_folder, write_atomically
from clipsr_training.data import decode
from clipsr_training.evaluation._picture import draw_answer


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "image",
        help="single images",
        description="Classify images one by one; for each, draw the image beside a bar chart of its labels. "
        "Prints a Markdown table.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files")
    parser.add_argument("--labels", required=True, metavar="A,B|@SET", help="names with commas, or a set: @cifar10")
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="labels in picture and table")
    parser.add_argument("--output", type=Path, default=Path("runs/image"), metavar="DIR", help="gets NAME.png for each")
    options.add_templates_option(parser)
    options.add_route_option(parser)
    options.add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    labels = parse_labels(arguments.labels)
    templates = options.check_templates(arguments.templates)
    targets = _targets(arguments.paths, arguments.output)
    contents = [_read(path) for path in arguments.paths]
    images = [decode(content, str(path)) for content, path in zip(contents, arguments.paths, strict=True)]
    make_output_folder(arguments.output)
    backend = options.open_model(arguments)
    classifier = backend.classifier(labels, templates)
    print("| image | size, px | label | cosine | probability |\n|---|---|---|---|---|")
    for path, content, image, target in zip(arguments.paths, contents, images, targets, strict=True):
        # All labels, whatever is shown: a softmax is over all of them.
        ranking = classifier.rank([content], [str(path)], route=arguments.route, k=len(labels))
        shown = slice(0, arguments.top)
        ranked = [labels[i] for i in ranking.indices[0, shown]]
        cosines = ranking.cosines[0]
        probabilities = backend.scoring.probabilities(cosines)[shown].tolist()
        for label, cosine, probability in zip(ranked, cosines[shown], probabilities, strict=True):
            print(f"| {path.name} | {image.height}×{image.width} | {label} | {cosine:.4f} | {probability:.2%} |")
        title = f"{path.name}, {image.height}×{image.width} px"
        write_atomically(target, draw_answer(image, title, ranked, probabilities))


def _targets(paths: list[Path], folder: Path) -> list[Path]:
    """Return where the pictures go; ValueError where two images would share one."""
    targets = [folder / f"{path.stem}.png" for path in paths]
    for target in targets:
        if targets.count(target) > 1:
            raise ValueError(f"two images would both become {target}; give them in separate calls")
    return targets


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    return path.read_bytes()
