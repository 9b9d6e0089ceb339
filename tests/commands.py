"""All jobs by module name, and an environment for commands without the settings of the current one."""

import importlib
import os
import pkgutil
from pathlib import Path

import jobs
from sdpo import settings
from sdpo.runtime import processes
from sdpo.settings.resolve import MAKE_VARIABLES

ROOT = Path(__file__).parents[1]
MODULES = [f"jobs.{module.name}" for module in pkgutil.iter_modules(jobs.__path__)]
JOBS = {name: module.JOB for name in MODULES if hasattr(module := importlib.import_module(name), "JOB")}


def clean_environment(**extra):
    """Return the current environment without variables that are settings or come from a launcher or make."""
    removed = {name.upper() for name in settings.known_names()}
    removed |= {MAKE_VARIABLES, processes.WORKER_VARIABLE, processes.EXIT_FILE_VARIABLE, "LOCAL_RANK", "RANK"}
    removed |= {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS"}
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | extra
