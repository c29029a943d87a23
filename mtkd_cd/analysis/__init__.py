"""Looking at data and models: data set checks, CAR statistics, sheets of pictures, parameters and
FLOPs."""
