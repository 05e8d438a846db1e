"""Floating point and long integers, with results that are the same wherever glibc chooses the same routines."""
import hashlib
import math
import struct

FUNCTIONS = (math.sin, math.cos, math.tan, math.atan, math.exp, math.expm1, math.log, math.log1p, math.sqrt,
             math.cbrt, math.erf, math.gamma, math.sinh, math.tanh, math.asinh)

for f in FUNCTIONS:
    h = hashlib.sha256()
    x = 1e-300
    while x < 1e300:
        try:
            h.update(struct.pack("<d", f(x)))
        except (OverflowError, ValueError) as e:
            h.update(type(e).__name__.encode())
        x *= 1.37
    print("python", f.__name__, h.hexdigest()[:16])

x, y = 0.1, 0.0
for i in range(200000):
    x = 3.99 * x * (1 - x)
    y += math.fmod(x * 1e9, 7.0) / (i + 1)
print("python logistic map", x.hex(), y.hex())
print("python subnormals", sum(5e-324 * i / 3 for i in range(1000)).hex(), (2.5e-308 / 7).hex())
print("python round", [round(v, 2) for v in (0.125, 2.675, 1e15 + 0.5, -0.5)], repr(0.1 + 0.2), f"{1e23!r}")
print("python pow", pow(3, 10**5, 2**521 - 1) % 10**30, (7**20000).bit_length(), math.isqrt(10**200) % 10**20)
