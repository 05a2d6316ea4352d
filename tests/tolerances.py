"""Every tolerance of the test suite, with its reason."""

# Two orders of summation of the same fp32 products over a whole EDSR or RDN; outputs are of order one.
from __future__ import annotations

FEATURES = 1e-5
# The same over encoder and decoder; the golden files were made on other hardware.
RAW = 1e-4
# A random LIIF against the literal formulation: near a tie the reference divides small areas, amplifying round-off.
REWRITE = 5e-5
# UINT8 levels: two fp32 results may lie on either side of a half before rounding.
LEVELS = 1
# L2-normalized fp32 embeddings from two engines, as 1 - cosine.
COSINE = 1e-4
# Cosines through the service (ONNX Runtime, fp32) and in PyTorch: one UINT8 level between the stages on either side.
SERVICE_COSINE = 5e-3
# Cosines through the service and in the same process, by the same sessions: only the batches differ.
IN_PROCESS_COSINE = 1e-3
# Cosines under a profile and under cpu-onnx, of the bundled model: 8 bits of a mantissa, or 8 bits in all.
PROFILE_COSINE = {"cpu-bf16": 1e-2, "cpu-int8": 3e-2}
# L2-normalized fp32 embeddings of equal weights and pixels, in OpenCLIP's pipeline and in ours; batches may differ.
PEER = 1e-5
# Tables of the SDE in float64, computed in another order.
TABLES = 1e-12
# The restoration network against the original's: round-off is 3e-6, a tanh in place of the exact GELU 3e-5.
UNET = 2e-5
# Pictures and states of restoration: the reference has float32 tables, off by 2e-4 relative at t = 2.
RESTORED = 1e-4
