"""Samples and an SLA -> what is proved of them. Pure: no files, no clock, no Locust."""
