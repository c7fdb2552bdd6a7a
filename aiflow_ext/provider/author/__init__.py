"""What the author of a Dag uses: rules on tasks and Dags, and questions that a running task may ask."""
