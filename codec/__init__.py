"""The parts of the trellis codec; quantize.py makes artifacts of them. README.md says how."""
