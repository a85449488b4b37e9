"""How a whole model lies in each kind of file: original single files and diffusers' folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from sdcore.checkpoint.families import FAMILIES
from sdcore.checkpoint.family import Layout, Original, Tensors
from sdcore.checkpoint.names import controlnet, t2i_adapter, vae
from sdcore.checkpoint.names.vae import LINEAR
from sdcore.checkpoint.tensor import SIZES, Tensor

# Parts alone, as other programs take them.
ALONE = {
    "vae": Original("", vae.to_original),
    "controlnet": Original("", controlnet.to_original),
    "t2i_adapter": Original("", t2i_adapter.to_original),
}


def layout_of(family: str) -> Layout | None:
    """Of a family, or of the one that it is a variant of: "sd1-lcm" lies as "sd1" does."""
    families = (FAMILIES.get(name) for name in (family, family.partition("-")[0]))
    return next((about.layout for about in families if about and about.layout), None)


def place_of(
    component: str, components: Collection[str], places: Mapping[str, Original]
) -> Original:
    """Where a component lies in a file of these."""
    place = places[component]
    if place.alone is None or len(components) > 1:
        return place
    return replace(place, prefix=place.alone)


def original_names(component: str, tensors: Tensors, place: Original) -> dict[str, Tensor]:
    """A part's tensors as an original file has them, by name and shape; names that no row knows
    are kept as they are."""
    if component == "vae":
        tensors = {name: _convolution(name, tensor) for name, tensor in tensors.items()}
    restored, unknown = place.table(tensors).restore(tensors)
    restored |= {name: tensors[name] for name in unknown}
    return {place.prefix + name: tensor for name, tensor in restored.items()}


def _convolution(name: str, tensor: Tensor) -> Tensor:
    """The autoencoder's attention is made of 1x1 convolutions there; blocks cannot follow."""
    is_linear = LINEAR.search(name) and len(tensor.shape) == 2 and tensor.type in SIZES
    return tensor.reshape((*tensor.shape, 1, 1)) if is_linear else tensor
