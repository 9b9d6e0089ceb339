"""Every job by the name of its module, and an environment to start commands in, without settings of this one."""

import importlib
import os
import pkgutil
from pathlib import Path

import jobs
from sdpo import settings
from sdpo.runtime import processes
from sdpo.settings.resolve import MAKE_VARIABLES

ROOT = Path(__file__).parents[1]
MODULES = [f"jobs.{found.name}" for found in pkgutil.iter_modules(jobs.__path__)]
JOBS = {name: module.JOB for name in MODULES if hasattr(module := importlib.import_module(name), "JOB")}


def clean_environment(**extra):
    """This environment without what would be taken for settings, or for a launcher's."""
    ours = {name.upper() for name in settings.known_names()}
    ours |= {MAKE_VARIABLES, processes.WORKER_VARIABLE, processes.EXIT_FILE_VARIABLE, "LOCAL_RANK", "RANK"}
    ours |= {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | extra
