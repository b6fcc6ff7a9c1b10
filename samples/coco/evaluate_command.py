"""`coco.py evaluate`."""

from command_options import add_dataset_arguments, add_model_arguments, choose_config, open_dataset, open_predictor

from siamese_mrcnn_tf.arguments import at_least

_PROTOCOL_HELP = (
    "'paper' feeds references without subtracting the mean and sorts masks into sizes by their box, as the original did"
)


def add_evaluate(commands):
    text = "Score a model on a COCO-format data set by the paper's one-shot protocol (one run of it)."
    parser = commands.add_parser("evaluate", help=text, description=text)
    parser.set_defaults(command=evaluate)
    add_dataset_arguments(parser)
    parser.add_argument("--subset", default="val", help="'val' or 'train' (default val)")
    parser.add_argument("--shots", type=at_least(1), default=1, metavar="K", help="references of a query (default 1)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the reference draws (default 0)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="only the first N images that have a category")
    parser.add_argument(
        "--protocol",
        choices=("default", "paper"),
        default="default",
        help=_PROTOCOL_HELP,
    )
    parser.add_argument("--out", default="evaluation", metavar="DIR", help="where results go (default evaluation)")
    add_model_arguments(parser)


def evaluate(options):
    from siamese_mrcnn_tf.evaluation import evaluate as run_protocol
    from siamese_mrcnn_tf.files import writable_folder, write_json

    out = writable_folder(options.out)
    paper = options.protocol == "paper"
    config, path = choose_config(options, {"MOLD_TARGETS_AT_INFERENCE": False} if paper else {})
    dataset, coco = open_dataset(options, options.subset)
    predictor = open_predictor(config, path)
    area = "box" if paper else "mask"
    outcome = run_protocol(
        predictor, dataset, coco, shots=options.shots, seed=options.seed, runs=1, limit=options.limit, area=area
    )
    write_json(out / "results.json", outcome.records.results(0))
    write_json(out / "references.json", outcome.records.references(0))
    write_json(out / "config.json", predictor.config.to_dict(), indent=1)
    write_json(out / "scores.json", outcome.scores.mean, indent=1)
    queries = outcome.scores.num_queries
    for name, scores in outcome.scores.runs[0].items():
        print(f"\n{name}: {scores.num_images} images, {queries} queries, {scores.num_results} detections")
        print(scores.table())
    seconds = outcome.scores.seconds
    print(f"\n{seconds:.1f} s for the images, {seconds / queries:.2f} s a query. Results are in {out}")
