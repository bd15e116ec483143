"""Flag evaluation: pure decision and the OpenFeature remote protocol."""
