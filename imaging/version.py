"""The version of Islet, as reports, manifests and the package say it."""

VERSION = "0.1.0"
