"""What people see in a browser: the page at ``/``."""
