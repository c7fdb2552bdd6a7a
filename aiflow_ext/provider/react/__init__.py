"""The reaction to events: one transaction in Airflow's database."""
