"""The paper in one sitting: `passes` reads rows off two forward passes, `solve` changes W by them.

Knows no files, no servers and no command line.
"""
