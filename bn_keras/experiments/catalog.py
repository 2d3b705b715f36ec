"""The names of the experiments and scales, without Keras."""

# In the order of the report.
EXPERIMENTS = (
    *("mnist", "mnist-sweep", "inception", "ensemble"),
    *("landscape", "noise", "section2", "domain"),
)
SCALES = {
    "smoke": "a minute or two at most, on the bundled digits; it proves that all runs "
    "and measures nothing",
    "default": "minutes to hours on two cores, smaller than in the papers",
    "full": "larger, up to the papers' own sizes; days",
}
# Where results go, unless told otherwise.
WORKDIR = "bn-keras-reproduce"
