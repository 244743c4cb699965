"""The HTTP interface under ``/v1``: an endpoint is one value; the door joins them."""
