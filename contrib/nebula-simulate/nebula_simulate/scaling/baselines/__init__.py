"""What scaling policies are compared with: none of these can be chosen in settings."""
