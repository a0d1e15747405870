"""Stands for SGLang in tests: the part of its interface that is used, over a model that counts down."""
