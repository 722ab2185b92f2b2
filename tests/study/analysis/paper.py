"""What Supplementary Tables 2, 4 and 5 of the paper print, typed off `pasta.txt`."""

from __future__ import annotations

import pandas as pd

READERS = {"J1": "junior", "J2": "junior", "S1": "senior", "S2": "senior"}

# Supplementary Table 2: TP, TN, FP, FN; solo, then assisted
COUNTS = {
    "liver": {
        "J1": ((5, 37, 3, 3), (9, 63, 0, 1)),
        "J2": ((7, 38, 2, 3), (10, 59, 1, 1)),
        "S1": ((11, 50, 4, 2), (15, 56, 1, 1)),
        "S2": ((10, 53, 4, 3), (14, 61, 0, 2)),
    },
    "pancreas": {
        "J1": ((2, 24, 1, 4), (10, 31, 1, 0)),
        "J2": ((5, 27, 0, 5), (9, 30, 0, 2)),
        "S1": ((9, 42, 2, 2), (8, 44, 1, 1)),
        "S2": ((8, 53, 3, 2), (10, 61, 2, 0)),
    },
    "kidney": {
        "J1": ((5, 45, 2, 4), (11, 61, 1, 0)),
        "J2": ((6, 44, 1, 4), (10, 68, 0, 2)),
        "S1": ((14, 65, 2, 3), (14, 72, 1, 1)),
        "S2": ((12, 59, 3, 4), (13, 68, 0, 2)),
    },
}
PRINTED_2 = {  # rows below the counts: liver, pancreas, kidney
    "Avg. cases read (solo)": ("58.8", "47.3", "68.3"),
    "Avg. cases read (assisted)": ("73.5", "52.5", "81.0"),
    "Efficiency improvement (relative %)": ("25.1", "11.1", "18.7"),
    "Avg. recall (solo, %)": ("73.5", "61.3", "68.2"),
    "Avg. recall (assisted, %)": ("90.5", "92.7", "90.8"),
    "Recall improvement (points)": ("17.0", "31.4", "22.6"),
    "p value for recall": ("0.043", "0.002", "0.010"),
    "Avg. precision (solo, %)": ("71.3", "80.3", "81.2"),
    "Avg. precision (assisted, %)": ("96.2", "90.8", "96.3"),
    "Precision improvement (points)": ("24.9", "10.5", "15.1"),
    "p value for precision": ("0.001", "0.279", "0.027"),
}
F1_TEXT = {"liver": (None, "93.2"), "pancreas": ("67.3", "91.3"), "kidney": ("73.8", "93.2")}

# Supplementary Table 4: means in s, reader 1 and 2, solo then assisted; reduction printed in %
TIMES = {
    ("junior", "liver", "mask"): ((590.3, 597.0), (294.8, 299.1), "50.0"),
    ("junior", "liver", "report"): ((197.4, 189.0), (146.5, 147.1), "24.0"),
    ("junior", "pancreas", "mask"): ((341.8, 321.2), (80.8, 81.9), "75.5"),
    ("junior", "pancreas", "report"): ((175.7, 173.5), (122.4, 108.0), "34.0"),
    ("junior", "kidney", "mask"): ((286.1, 298.9), (62.0, 65.5), "78.2"),
    ("junior", "kidney", "report"): ((137.4, 143.8), (121.1, 116.1), "15.7"),
    ("senior", "liver", "mask"): ((495.4, 477.4), (251.2, 280.4), "45.3"),
    ("senior", "liver", "report"): ((157.6, 152.8), (126.6, 116.1), "21.8"),
    ("senior", "pancreas", "mask"): ((263.6, 238.6), (67.9, 70.6), "72.4"),
    ("senior", "pancreas", "report"): ((144.9, 135.6), (103.7, 111.5), "23.3"),
    ("senior", "kidney", "mask"): ((235.1, 226.8), (59.0, 58.7), "74.5"),
    ("senior", "kidney", "report"): ((136.2, 142.5), (92.5, 84.5), "36.5"),
}
# 95 % intervals of the times of junior readers' kidney reports, whose p is printed as 0.006
KIDNEY_REPORT = {
    ("J1", "solo"): (137.4, 118.9, 156.0),
    ("J1", "assisted"): (121.1, 103.6, 138.6),
    ("J2", "solo"): (143.8, 127.5, 160.2),
    ("J2", "assisted"): (116.1, 104.8, 127.4),
}
READS_PER_CELL = 50

# Supplementary Table 5: means of J1 and J2, solo then assisted; improvement printed in relative %
IMPROVEMENTS = {
    ("liver", "dice"): ((0.740, 0.702), (0.805, 0.813), "12.2"),
    ("liver", "accuracy"): ((0.940, 0.928), (0.948, 0.924), "0.2"),
    ("pancreas", "dice"): ((0.740, 0.764), (0.850, 0.832), "11.8"),
    ("pancreas", "accuracy"): ((0.908, 0.924), (0.920, 0.936), "1.3"),
    ("kidney", "dice"): ((0.752, 0.715), (0.818, 0.826), "12.0"),
    ("kidney", "accuracy"): ((0.932, 0.920), (0.944, 0.916), "0.4"),
}
# 95 % intervals of the liver accuracies, whose p is printed as 0.890
LIVER_ACCURACY = {
    ("J1", "solo"): (0.940, 0.914, 0.966),
    ("J1", "assisted"): (0.948, 0.920, 0.976),
    ("J2", "solo"): (0.928, 0.898, 0.958),
    ("J2", "assisted"): (0.924, 0.892, 0.956),
}


def counts() -> pd.DataFrame:
    """The counts of Supplementary Table 2 as `pasta.study.analysis.screening` takes them."""
    return pd.DataFrame(
        [
            dict(zip(("tp", "tn", "fp", "fn"), numbers, strict=True))
            | {"organ": organ, "reader": reader, "level": READERS[reader], "arm": arm}
            for organ, readers in COUNTS.items()
            for reader, arms in readers.items()
            for arm, numbers in zip(("solo", "assisted"), arms, strict=True)
        ]
    )
