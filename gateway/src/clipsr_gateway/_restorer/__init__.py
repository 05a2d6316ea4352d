"""RestorerService: damaged images restored."""
