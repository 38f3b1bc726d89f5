"""Ask a table your own questions: which classes are near to which?"""

import xarray

import marginkit

frame = marginkit.load("margins.h5").to_pandas()
right = frame[frame["deepfool.l2.status"] == "OK"]
print(right.groupby("label")["deepfool.l2"].median())
print(right.groupby(["label", "deepfool.l2.rival"]).size().sort_values().tail(5))

with xarray.open_dataset("margins.h5", engine="h5netcdf") as found:
    print(float(found["deepfool.l2"].where(found["deepfool.l2.status"] == 0).mean()))
