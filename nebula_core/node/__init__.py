"""The node daemon: brings this machine's engines to the plan and reports on them."""
