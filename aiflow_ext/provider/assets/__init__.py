"""Airflow's asset events and our events: each becomes the other."""
