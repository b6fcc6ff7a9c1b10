"""Which layers train: those that a selection names, inside nested models too; the others are frozen."""

import keras

from .schedules import LAYER_SELECTIONS, layer_pattern


def select_layers(layers, selection):
    """Make the layers trainable that a selection names, inside nested models too, and freeze the others.

    Args:
        layers: Keras layers and models.
        selection: a key of LAYER_SELECTIONS, or a regular expression for whole layer names.

    Returns:
        Names of the layers with weights that train.

    Raises:
        ValueError: no layer matches, or the selection is no regular expression.
    """
    names = matching_layers(layers, selection)
    for layer in iter_layers(layers):
        if isinstance(layer, keras.Model):
            layer.trainable = True  # a frozen model would freeze what is inside
        elif layer.weights:
            layer.trainable = layer.name in names
    return names


def matching_layers(layers, selection):
    """Names of the layers with weights that a selection names; arguments and errors as `select_layers`."""
    pattern = layer_pattern(selection)
    weighted = [layer for layer in iter_layers(layers) if layer.weights and not isinstance(layer, keras.Model)]
    names = [layer.name for layer in weighted if pattern.fullmatch(layer.name)]
    if not names:
        known = ", ".join(LAYER_SELECTIONS)
        raise ValueError(f"layers {selection!r}: no layer of that name; expected one of {known}, or an expression")
    return names


def summarize_names(names):
    """Layer names for people: those with one beginning together."""
    groups = {}
    for name in names:
        groups.setdefault(name[:4], []).append(name)
    return ", ".join(
        group[0] if len(group) == 1 else f"{group[0]} .. {group[-1]} ({len(group)})" for group in groups.values()
    )


def iter_layers(layers):
    """Layers, and what is inside those that are models after each of them."""
    for layer in layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from iter_layers(layer.layers)
