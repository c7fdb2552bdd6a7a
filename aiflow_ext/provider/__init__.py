"""Everything that knows Airflow, and the only place that imports it."""
