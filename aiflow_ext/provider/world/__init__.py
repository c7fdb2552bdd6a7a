"""What a reaction decides on: which Dags have rules, and what is known of each active run."""
