"""`measure` and `measure_file` without the checks, which take seconds and are what few tests are about."""

from functools import partial

from marginkit.measurement import measure as module

measure = partial(module.measure, checks=0)
measure_file = partial(module.measure_file, checks=0)
