"""UpscalerService: images rendered larger, tile by tile."""
