"""Families of models, one file each: which parts a pipeline has, what prompts become and how the
denoiser is asked. A file added to this folder is found by itself."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
