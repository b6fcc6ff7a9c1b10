"""The `siamese-mrcnn` command, one file a subcommand.

main: the subcommands, errors and exit codes.
options: options that several subcommands share.
predict, train, evaluate, check, convert, weights, pretrain, demo, shapes: each with `add_parser(commands)`
    and `run(options)`.
"""
