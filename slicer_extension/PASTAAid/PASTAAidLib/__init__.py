"""What the PASTA-AID module of 3D Slicer knows without Slicer: server, cases, drafts, settings.

Nothing here imports slicer, qt or vtk; the standard library, requests, NumPy and the light part of
`pasta` are enough, and plain pytest runs all of it.
"""
