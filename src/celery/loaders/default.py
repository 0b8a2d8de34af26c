"""The loader of the default app: it reads `celeryconfig` when nothing else was configured."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from celery.app.source import as_mapping
from celery.exceptions import NotConfigured
from celery.loaders.base import BaseLoader

DEFAULT_CONFIG_MODULE = "celeryconfig"

#: Set `C_WNOCONF` to be warned when there is no configuration module.
C_WNOCONF = os.environ.get("C_WNOCONF", "").lower() in {"1", "true", "yes", "on"}


class Loader(BaseLoader):
    """Reads the module `CELERY_CONFIG_MODULE`, or `celeryconfig`."""

    def setup_settings(self, settingsdict: Any) -> Mapping[str, Any]:
        return as_mapping(settingsdict)

    def read_configuration(self, fail_silently: bool = True) -> Mapping[str, Any]:  # type: ignore[override]
        """Import the configuration module; without one the settings are empty, unless *fail_silently* is false."""
        name = os.environ.get("CELERY_CONFIG_MODULE") or DEFAULT_CONFIG_MODULE
        try:
            module = self._import_config_module(name)
        except ModuleNotFoundError as error:
            # A module that exists but cannot import what it needs is a mistake to be seen.
            if not fail_silently or error.name not in {name, name.partition(".")[0]}:
                raise
            if C_WNOCONF:
                warnings.warn(
                    f"There is no configuration module {name!r}: defaults are used.", NotConfigured, stacklevel=2
                )
            return self.setup_settings({})
        self.configured = True
        return self.setup_settings(module)


__all__ = ["DEFAULT_CONFIG_MODULE", "Loader"]
