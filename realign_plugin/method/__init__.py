"""Mask maths, the masked linear map, fusion, divergences: pure functions over tensors; torch only."""
