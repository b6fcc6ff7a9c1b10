"""The `siamese-mrcnn` command, one file a subcommand.

main: the subcommands, errors and exit codes.
options, inputs: options that several subcommands share, and what they stand for.
predict, train, evaluate, calibrate, check, convert, weights, pretrain, demo, shapes: each with
    `add_parser(commands)` and `run(options)`; its docstring is the command's help.
"""
