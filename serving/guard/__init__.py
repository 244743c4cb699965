"""Who may ask for what: tokens, roles, limits on who asks, and the audit log."""
