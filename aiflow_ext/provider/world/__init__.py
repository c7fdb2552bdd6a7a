"""What is known for it: which Dags have rules, and each active run."""
