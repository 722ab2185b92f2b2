"""Refinement of drawn lesions by a denoising diffusion model. Off by default: docs/synthesis_refinement.md."""
