"""Engines without a model: counting and simulated compute answers from the prompt, replay reads them."""
