"""Ask a table your own questions: which classes are near to which?"""

import xarray

import marginkit

frame = marginkit.load("margins.h5").to_pandas()
right = frame[frame["nearest.l2.status"] == "OK"]
print(right.groupby("label")["nearest.l2"].median())
print(right.groupby(["label", "nearest.l2.rival"]).size().sort_values().tail(5))

with xarray.open_dataset("margins.h5", engine="h5netcdf") as found:
    print(float(found["nearest.l2"].where(found["nearest.l2.status"] == 0).mean()))
