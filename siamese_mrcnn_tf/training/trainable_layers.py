"""Which layers train: those of a selection, also inside nested models; the others are frozen."""

from collections.abc import Collection, Iterable, Iterator

import keras

from ..io.errors import InputError
from .schedules import LAYER_SELECTIONS, layer_pattern


def select_layers(layers: Collection[keras.layers.Layer], selection: str) -> list[str]:
    """Make the layers of a selection trainable, freeze the others; returns names of the layers with weights that train.

    Args:
        layers: Keras layers and models, which are searched too.
        selection: a key of LAYER_SELECTIONS, or a regular expression for whole layer names.

    Raises:
        ValueError: no layer matches, or the selection is not a regular expression.
    """
    names = matching_layers(layers, selection)
    for layer in iter_layers(layers):
        if isinstance(layer, keras.Model):
            layer.trainable = True  # a frozen model would freeze the layers inside
        elif layer.weights:
            layer.trainable = layer.name in names
    return names


def matching_layers(layers: Iterable[keras.layers.Layer], selection: str) -> list[str]:
    """Names of the layers with weights that match a selection; arguments and errors as in `select_layers`."""
    pattern = layer_pattern(selection)
    weighted = [layer for layer in iter_layers(layers) if layer.weights and not isinstance(layer, keras.Model)]
    names = [layer.name for layer in weighted if pattern.fullmatch(layer.name)]
    if not names:
        known = ", ".join(LAYER_SELECTIONS)
        raise InputError(f"layers {selection!r}: no layer of that name; expected one of {known}, or an expression")
    return names


def summarize_names(names: Iterable[str]) -> str:
    """Layer names for people, grouped by their first letters."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name[:4], []).append(name)
    return ", ".join(
        group[0] if len(group) == 1 else f"{group[0]} .. {group[-1]} ({len(group)})" for group in groups.values()
    )


def iter_layers(layers: Iterable[keras.layers.Layer]) -> Iterator[keras.layers.Layer]:
    """All layers, each nested model followed by its layers."""
    for layer in layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from iter_layers(layer.layers)
