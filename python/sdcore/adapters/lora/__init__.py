"""LoRA files (Hu et al. 2021) and their kin: names, mathematics, and a network that has them."""

from sdcore.adapters.lora.apply import MODES, adapted
from sdcore.adapters.lora.changes import Change
from sdcore.adapters.lora.file import LoraFile, read
from sdcore.adapters.lora.names import COMPONENTS

__all__ = ["COMPONENTS", "MODES", "Change", "LoraFile", "adapted", "read"]
