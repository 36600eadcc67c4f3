"""`python -m hfx.calibrate`: measures a model's steps on this machine and keeps their prices."""
