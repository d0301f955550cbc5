"""Which version this is.

The rule of this file: the package knows it by itself. A copy of it, in a container or a bundled
program, has no metadata of an installation beside it, or those of another version.
"""

VERSION = "0.1.0"
