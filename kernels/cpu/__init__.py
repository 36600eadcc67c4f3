"""The back end "cpu": C++ kernels for AVX2, AVX-512 and AVX-512 with bfloat16 products."""
