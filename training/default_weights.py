"""Train the default weights: `python -m training.default_weights --data FOLDER --out FOLDER`.

Reads a data folder as described in docs/model_cards/default.md, keeps its work (cases on the model's
grid, checkpoints) in a folder of its own and may be stopped and resumed at any time.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from pasta.errors import PastaError, VolumeError
from pasta.labels import BACKGROUND, LABELS, LESIONS, label_named
from pasta.networks.checkpoint import load_model, save_model
from pasta.networks.unet import PastaUNet
from pasta.report.attributes import head_options
from pasta.spec import TASKS, ModelSpec, ZScore
from training.cases import ALL_ORGANS, Case, case, on_model_grid, real_case, tissue_templates
from training.generated import GeneratedLesions
from training.heads import (
    HeadSchedule,
    Sample,
    attribute_sample,
    drawn_maps,
    encoder_of,
    hosts_of,
    measured_head,
    screening_sample,
    stem_of,
    train_head,
)
from training.loop import Schedule
from training.sampling import Augmentation, choose_case, sample_patch
from training.segmentation import class_weights, train_segmentation
from training.synthesis.phantom import draw_phantom, render_phantom
from training.synthesis.rendering import draw_render_recipe, rendered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


Draw = Callable[[np.random.Generator], Sample | None]
log = logging.getLogger(__name__)
CONFIG = Path(__file__).parent / "configs" / "default.toml"
PHANTOM_SPACING_MM = (2.5, 2.5, 3.0)
_NO_TRAINING = ("NC", "ND")  # licence terms in the name of a case's folder


def segmentation_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Build the specification of the segmentation weights."""
    part = config["segmentation"]
    spacing, patch = float(part["spacing_mm"]), int(part["patch"])
    low, high = part["clip_hu"]
    return ModelSpec(
        name="pasta-aid-default-segmentation",
        version=config["version"],
        task="segmentation",
        title="Default segmentation, 25 labels, trained on few CTs and drawn lesions",
        width=int(part["width"]),
        spacing_mm=(spacing, spacing, spacing),
        patch_shape=(patch, patch, patch),
        intensity=ZScore((float(low), float(high)), 0.0, 200.0),
        antialias=True,
        channels=(BACKGROUND, *(label.name for label in LABELS)),
        license="Apache-2.0",
        trained_on="See docs/model_cards/default.md: public CTs (CC BY, Apache-2.0), rendered "
        "volumes, drawn lesions. Research use only.",
    )


def training_folders(data: Path, config: Mapping[str, Any]) -> list[Path]:
    """List the case folders that may be trained on."""
    folders = sorted(path.parent for path in (data / "ct").glob("*/ct.nii.gz"))
    if not folders:
        msg = f"{data}: no ct/<case>/ct.nii.gz found. Name the data folder with --data."
        raise VolumeError(msg)
    return [
        folder
        for folder in folders
        if folder.name not in config["held_out"]
        and not any(term in folder.name.replace("-", "_").split("_") for term in _NO_TRAINING)
    ]


def build_pool(
    data: Path,
    annotations: Path | None,
    config: Mapping[str, Any],
    work: Path,
    spec: ModelSpec,
    counts: Mapping[str, Any],
) -> list[Case]:
    """Bring all training cases to a model's grid; what is in the work folder is not made again.

    Args:
        data: data folder.
        annotations: folder of `training.annotation`.
        config: of the run.
        work: where cases are kept.
        spec: names the grid.
        counts: numbers of "rendered" volumes and "phantoms" to make.

    Returns:
        Real, rendered and phantom cases.
    """
    spacing = spec.spacing_mm[0]
    pool = work / f"cases_{spacing:g}mm"
    pool.mkdir(parents=True, exist_ok=True)
    cases = []
    for folder in tqdm(training_folders(data, config), desc="real cases"):
        path = pool / f"real_{folder.name}.npz"
        if not path.exists():
            made = real_case(folder, annotations, spec, config["hidden"].get(folder.name, ()))
            if made is None:
                continue
            made.save(path)
        cases.append(Case.load(path))
    templates: dict[str, Any] = {}
    for index in tqdm(range(int(counts["rendered"])), desc="rendered cases"):
        path = pool / f"rendered_{index:03d}.npz"
        if not path.exists():
            templates = templates or tissue_templates(data, spacing)
            rng = np.random.default_rng((config["seed"], 1, index))
            name = sorted(templates)[index % len(templates)]
            hu, labels = rendered(templates[name], spacing, draw_render_recipe(rng))
            known = [o for o in ALL_ORGANS if o != "esophagus"]
            case(f"{name}_{index:03d}", "rendered", hu, labels, known).save(path)
        cases.append(Case.load(path))
    for index in tqdm(range(int(counts["phantoms"])), desc="phantoms"):
        path = pool / f"phantom_{index:03d}.npz"
        if not path.exists():
            rng = np.random.default_rng((config["seed"], 2, index))
            ct, labelmap = render_phantom(draw_phantom(rng), PHANTOM_SPACING_MM)
            hu, labels = on_model_grid(ct, labelmap.voxels, spec)
            case(f"phantom_{index:03d}", "phantom", hu, labels, ALL_ORGANS).save(path)
        cases.append(Case.load(path))
    return cases


def segmentation_draw(
    cases: Sequence[Case],
    generated: GeneratedLesions | None,
    spec: ModelSpec,
    part: Mapping[str, Any],
) -> Callable[[np.random.Generator], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Mix patches of cases and of PASTA-Gen templates by the shares of the run file."""
    shares = dict(part["shares"])
    from_templates = float(shares.pop("generated", 0.0)) if generated else 0.0
    shares.pop("generated", None)
    augmentation = Augmentation(**part["augmentation"])

    def draw(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if generated is not None and rng.random() < from_templates:
            return generated.patch(rng)
        source = choose_case(cases, shares, rng)
        x, target = sample_patch(source, spec, augmentation, rng)
        return x, target, torch.from_numpy(source.allowed)

    return draw


def first_network(spec: ModelSpec, part: Mapping[str, Any], seed: int) -> PastaUNet:
    """Build the network a run starts from: of other weights (`init`), or random."""
    torch.manual_seed(seed)
    network = PastaUNet(len(LABELS) + 1, spec.width)
    if part.get("init"):
        model = load_model(Path(part["init"]))
        (first,) = model.networks(torch.device("cpu"))
        network.load_state_dict(first.state_dict())
    return network


def head_spec(config: Mapping[str, Any], task: Literal["screening", "attributes"]) -> ModelSpec:
    """Build the specification of the screening or the attribute weights."""
    part = config[task]
    spacing, patch = float(part["spacing_mm"]), int(part["patch"])
    segmentation = segmentation_spec(config)
    kind: dict[str, Any] = {"attributes": head_options()}
    title = "Default attributes of drawn lesions"
    if task == "screening":
        kind = {"organs": tuple(part["organs"])}
        title = "Default screening, trained on drawn tumours; real tumour detection not established"
    return replace(
        segmentation,
        name=f"pasta-aid-default-{task}",
        task=task,
        title=title,
        spacing_mm=(spacing, spacing, spacing),
        patch_shape=(patch, patch, patch),
        channels=(),
        **kind,
    )


def train_screening(
    cases: Sequence[Case], network: PastaUNet, config: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Train, measure on hosts not trained on, and save the screening head.

    Returns:
        AUROC and balanced accuracy, all organs together and by organ.
    """
    spec, part = head_spec(config, "screening"), config["screening"]
    schedule = HeadSchedule(**part["schedule"])
    classifier = encoder_of(network, spec.num_outputs)
    stem = stem_of(classifier)

    def draw_from(hosts: Sequence[Case], organs: Sequence[str]) -> Draw:
        fitting = {organ: hosts_of(hosts, organ) for organ in organs}

        def draw(rng: np.random.Generator) -> Sample | None:
            organ = organs[int(rng.integers(len(organs)))]
            of_organ = fitting[organ]
            return screening_sample(of_organ[rng.integers(len(of_organ))], organ, spec, rng)

        return draw

    training, testing = split_hosts(cases)
    rng = np.random.default_rng((config["seed"], 3))
    maps, targets = drawn_maps(
        draw_from(training, spec.organs), schedule.samples, stem, rng, "screening crops"
    )
    train_head(classifier, maps, targets, (2,), schedule, config["seed"])
    report: dict[str, Any] = {}
    rng = np.random.default_rng((config["seed"], 4))
    for organ in spec.organs:
        maps, targets = drawn_maps(
            draw_from(testing, [organ]), int(part["test_samples"]), stem, rng, f"test {organ}"
        )
        report[organ] = measured_head(classifier, maps, targets, (2,))[0]
    save_model([classifier], spec, out / "screening")
    return report


def train_attributes(
    cases: Sequence[Case], network: PastaUNet, config: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Train, measure on hosts not trained on, and save the attribute head.

    Returns:
        Balanced accuracy of each attribute.
    """
    spec, part = head_spec(config, "attributes"), config["attributes"]
    schedule = HeadSchedule(**part["schedule"])
    classifier = encoder_of(network, spec.num_outputs)
    stem = stem_of(classifier)
    groups = [len(options) for options in spec.attributes.values()]

    def draw_from(hosts: Sequence[Case]) -> Draw:
        fitting = {
            lesion.name: [
                host
                for host in hosts
                if lesion.organ in host.labelled and label_named(lesion.organ).value in host.places
            ]
            for lesion in LESIONS
        }
        names = [name for name, of_name in fitting.items() if of_name]

        def draw(rng: np.random.Generator) -> Sample | None:
            name = names[rng.integers(len(names))]
            of_name = fitting[name]
            return attribute_sample(of_name[rng.integers(len(of_name))], name, spec, rng)

        return draw

    training, testing = split_hosts(cases)
    rng = np.random.default_rng((config["seed"], 5))
    maps, targets = drawn_maps(draw_from(training), schedule.samples, stem, rng, "lesion patches")
    train_head(classifier, maps, targets, groups, schedule, config["seed"])
    rng = np.random.default_rng((config["seed"], 6))
    maps, targets = drawn_maps(
        draw_from(testing), int(part["test_samples"]), stem, rng, "test patches"
    )
    report = dict(
        zip(spec.attributes, measured_head(classifier, maps, targets, groups), strict=True)
    )
    save_model([classifier], spec, out / "attributes")
    return report


def split_hosts(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Keep one case in five of each kind aside, to measure the heads on."""
    training: list[Case] = []
    testing: list[Case] = []
    for kind in sorted({each.kind for each in cases}):
        of_kind = [case for case in cases if case.kind == kind]
        testing += of_kind[4::5]
        training += [case for index, case in enumerate(of_kind) if index % 5 != 4]
    return training, testing


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.default_weights",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--out", type=Path, default=Path("pasta/weights"), help="weights folder")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/default"), help="cases, checkpoints"
    )
    parser.add_argument("--annotations", type=Path, help="folder of training.annotation")
    parser.add_argument("--config", type=Path, default=CONFIG, help="run file")
    parser.add_argument("--templates", type=Path, help="template store of training.synthesis")
    parser.add_argument(
        "--early", action="store_true", help="when stopped, save what there is instead of waiting"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    return parser


def run(args: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Train what is asked for; the segmentation is resumed from its checkpoint first."""
    args.work.mkdir(parents=True, exist_ok=True)
    part = config["segmentation"]
    spec = segmentation_spec(config)
    cases = build_pool(args.data, args.annotations, config, args.work, spec, part)
    network = first_network(spec, part, config["seed"])
    generated = (
        GeneratedLesions(args.templates, spec, part.get("types")) if args.templates else None
    )
    ended = train_segmentation(
        network,
        segmentation_draw(cases, generated, spec, part),
        Schedule(**part["schedule"]),
        args.work / "segmentation",
        seed=config["seed"],
        weight=class_weights(**part.get("class_weights", {})),
    )
    if not ended.finished and not args.early:
        raise KeyboardInterrupt
    reports: dict[str, Any] = {}
    if "segmentation" in args.tasks:
        save_model([network], spec, args.out / "segmentation")
    if "screening" in args.tasks:
        reports["screening"] = train_screening(cases, network, config, args.out)
    if "attributes" in args.tasks:
        part = config["attributes"]
        fine = build_pool(
            args.data, args.annotations, config, args.work, head_spec(config, "attributes"), part
        )
        reports["attributes"] = train_attributes(fine, network, config, args.out)
    for task, report in reports.items():
        (args.work / f"{task}.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        log.info("%s on hosts not trained on: %s", task, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        run(args, tomllib.loads(args.config.read_text(encoding="utf-8")))
    except PastaError as error:
        print(f"training.default_weights: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
