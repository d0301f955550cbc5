"""The version of this package.

The rule of this file: the version does not come from the metadata of an installation. A copy of the
package in a container or a bundled program has no metadata, or that of another version.
"""

VERSION = "0.2.0"
