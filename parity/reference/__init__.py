"""The reference: what PyTorch computes, and how far apart two answers lie."""
