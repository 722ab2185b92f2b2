"""Synthesis of CT volumes and lesions: draw a recipe, then apply it."""
