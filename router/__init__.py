"""llama-router: one OpenAI-compatible endpoint in front of every GGUF model you own.

Kept free of imports: the embedded llama.cpp child is a submodule and must start in a few hundredths of a second.
"""

__version__ = "0.1.0"
