"""The search for the highest target_qps that LoadGen calls VALID."""
