"""The configuration: the only place that reads JSON settings and the environment.

`load_settings` is the way in from the command line, `Settings.build` the one from Python. What comes out is frozen and
checked: the rest of the program never meets a half-valid setting.
"""

from router.config.changes import Changes, Reloaded, compare
from router.config.environment import read_environment
from router.config.files import shard_files
from router.config.flags import flag_value, has_flag
from router.config.keys import ClientKey, Keys
from router.config.loading import config_file, load_settings
from router.config.models import ApiConfig, ModelConfig, SystemConfig, parallel_slots
from router.config.names import RESERVED, RESERVED_ENDINGS
from router.config.settings import Settings

__all__ = [
    "RESERVED",
    "RESERVED_ENDINGS",
    "ApiConfig",
    "Changes",
    "ClientKey",
    "Keys",
    "ModelConfig",
    "Reloaded",
    "Settings",
    "SystemConfig",
    "compare",
    "config_file",
    "flag_value",
    "has_flag",
    "load_settings",
    "parallel_slots",
    "read_environment",
    "shard_files",
]
