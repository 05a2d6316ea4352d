"""`clipsr-client classify`."""
