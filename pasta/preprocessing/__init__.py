"""The only CT windowing and resampling there is; training and serving import this very code."""
