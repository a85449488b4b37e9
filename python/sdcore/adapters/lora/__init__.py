"""LoRA files (Hu et al. 2021) and their kin: names, mathematics, and a network that has them."""

from sdcore.adapters.lora.apply import MODES, adapted
from sdcore.adapters.lora.changes import Change
from sdcore.adapters.lora.file import IN_MEMORY, LoraFile, Shapes, State, read, read_from
from sdcore.adapters.lora.names import COMPONENTS

__all__ = [
    "COMPONENTS",
    "IN_MEMORY",
    "MODES",
    "Change",
    "LoraFile",
    "Shapes",
    "State",
    "adapted",
    "read",
    "read_from",
]
